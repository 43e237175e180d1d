package imagepattern

import (
	"fmt"
	"slices"
	"strings"
)

// Allows reports whether a list of patterns allows an image: no pattern with "!" forbids it, and one without names it.
// A list of patterns with "!" only allows all that none of them forbids; an empty list allows everything. When the image
// is not allowed, why says so in a few words if there is more to say than that no pattern names it. What is no image of
// a registry, and a list with a pattern that Parse refuses, allow nothing.
func Allows(patterns []string, image string) (allowed bool, why string) {
	if len(patterns) == 0 {
		return true, ""
	}
	meant, err := parseReference(image)
	if err != nil {
		return false, err.Error()
	}
	forbidsOnly := true
	for _, text := range patterns {
		p, err := Parse(text)
		switch {
		case err != nil:
			return false, fmt.Sprintf("the pattern %q %s", text, err)
		case p.negated && p.forbids(meant) && meant.digest != "":
			return false, fmt.Sprintf("%q forbids it, as what a digest names may have any tag", text)
		case p.negated && p.forbids(meant):
			return false, fmt.Sprintf("%q forbids it", text)
		case !p.negated:
			forbidsOnly = false
			allowed = allowed || p.names(meant)
		}
	}
	return allowed || forbidsOnly, ""
}

// Within reports whether surely all that the patterns a allow is allowed by b, too. Patterns are compared as they are
// written, so false may also mean that it cannot be told.
func Within(a, b []string) bool {
	allowedByA, forbiddenByA := split(a)
	allowedByB, forbiddenByB := split(b)
	switch {
	case !subset(forbiddenByB, forbiddenByA):
		return false
	case len(allowedByB) == 0 || slices.Contains(allowedByB, "**"):
		return true
	default:
		return len(allowedByA) > 0 && subset(allowedByA, allowedByB)
	}
}

// split returns the patterns that allow, and those that forbid.
func split(patterns []string) (allowed, forbidden []string) {
	for _, pattern := range patterns {
		if strings.HasPrefix(pattern, "!") {
			forbidden = append(forbidden, pattern)
		} else {
			allowed = append(allowed, pattern)
		}
	}
	return allowed, forbidden
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(item string) bool { return !slices.Contains(b, item) })
}
