package imagepattern

import (
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Pattern is one pattern of a list.
type Pattern struct {
	negated      bool
	alternatives []alternative
}

// alternative is a pattern without braces, taken apart: [host/]path[:tag][@digest].
type alternative struct {
	name string // host and path, for doublestar
	// tag and digest are doublestar patterns; empty when none is written.
	tag, digest string
	// open says that the name ends with "*" and no tag follows: then it is for all tags and digests.
	open bool
}

// names reports whether a pattern without "!" is for an image. A tag is not what a digest beside it means, so a
// reference with a digest is named by patterns for that digest, or for all of a repository.
func (p Pattern) names(image reference) bool {
	for _, a := range p.alternatives {
		if !a.matchesName(image.names) {
			continue
		}
		switch {
		case a.digest != "":
			if image.digest != "" && matches(a.digest, image.digest) {
				return true
			}
		case a.open, a.tag == "*":
			return true
		case image.digest != "":
		case a.tag == "" && image.tag == defaultTag, a.tag != "" && matches(a.tag, image.tag):
			return true
		}
	}
	return false
}

// forbids reports whether a pattern with "!" is for an image, or may be: without a tag it is for every tag, and an image
// that is named by its digest may have any tag.
func (p Pattern) forbids(image reference) bool {
	for _, a := range p.alternatives {
		if !matchesAny(a.name, image.aliases) {
			continue
		}
		if a.open || a.tag == "" || image.digest != "" || matches(a.tag, image.tag) {
			return true
		}
	}
	return false
}

// matchesName is for patterns that allow: doublestar's "a/**" is for "a", too, which is not what is below it.
func (a alternative) matchesName(names []string) bool {
	name := a.name
	if name == "**" || strings.HasSuffix(name, "/**") {
		name += "/*"
	}
	return matchesAny(name, names)
}

func matchesAny(pattern string, names []string) bool {
	for _, name := range names {
		if matches(pattern, name) {
			return true
		}
	}
	return false
}

// matches takes a pattern that Parse has accepted.
func matches(pattern, name string) bool { return doublestar.MatchUnvalidated(pattern, name) }
