package imagepattern

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/google/go-containerregistry/pkg/name"
)

// Mistake is what is wrong with a pattern: it cannot be read, can match no image, or cannot match what it seems to.
type Mistake struct {
	// Wrong follows the quoted pattern in a sentence: "is not a pattern".
	Wrong string
	// Remedy is what to do instead.
	Remedy string
}

// Error returns what is wrong, without the pattern and without the remedy.
func (m *Mistake) Error() string { return m.Wrong }

const (
	// maxLength is far above that of any reference: 255 characters of host, 255 of path, 128 of tag, a digest.
	maxLength = 1024
	// maxAlternatives bounds what braces may multiply to.
	maxAlternatives = 256
)

const grammarRemedy = `write [registry/]repository[:tag][@digest], as in "registry.example.com/**", "debian:*" or "!**/*:latest"`

// Parse reads a pattern. Every error is a *Mistake.
func Parse(text string) (Pattern, error) {
	rest, negated := strings.CutPrefix(text, "!")
	switch {
	case strings.HasPrefix(rest, "!"):
		return Pattern{}, &Mistake{`begins with more than one "!"`, "write one: what is forbidden stays forbidden"}
	case rest == "" || !doublestar.ValidatePattern(rest):
		return Pattern{}, &Mistake{"is not a pattern", `close every [ and {, as in "registry.example.com/**" or "!**/*:latest"`}
	case len(rest) > maxLength || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return Pattern{}, &Mistake{"can match no image: no name of one has such characters, or is so long", grammarRemedy}
	case strings.Contains(rest, "://"):
		return Pattern{}, &Mistake{"can match no image: their names have no scheme", "remove all up to ://"}
	}
	if err := checkClasses(rest); err != nil {
		return Pattern{}, err
	}
	texts, err := expand(rest)
	if err != nil {
		return Pattern{}, err
	}
	p := Pattern{negated: negated}
	for _, text := range texts {
		a, err := parseAlternative(text, negated)
		if err != nil {
			return Pattern{}, err
		}
		p.alternatives = append(p.alternatives, a)
	}
	return p, nil
}

// classForm is a class that lists what it may be; which characters its ranges cover is not seen here.
var classForm = regexp.MustCompile(`^\[[A-Za-z0-9._-]+\]$`)

// checkClasses refuses classes that could stand for what parts a name: doublestar lets [^a] match a slash.
func checkClasses(text string) error {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			if i++; text[i] != '[' && text[i] != ']' { // there is one: the pattern is valid
				return &Mistake{`has \` + text[i:i+1] + ", which no name of an image needs", "remove the \\, or write a wildcard without it"}
			}
		case '[':
			length := strings.IndexByte(text[i:], ']') + 1 // there is one: the pattern is valid
			class := text[i : i+length]
			separates := func(c string) bool { return matches(class, c) }
			if !classForm.MatchString(class) || separates("/") || separates(":") || separates("@") {
				return &Mistake{"has " + class + `, which is not a list of letters, digits, ".", "_" and "-"`,
					`write what it may be, as in [a-z0-9]; brackets of an IPv6 address are written \[ and \]`}
			}
			i += length - 1
		}
	}
	return nil
}

// expand writes a pattern with braces as several without.
func expand(text string) ([]string, error) {
	open := indexUnescaped(text, '{')
	if open < 0 {
		return []string{text}, nil
	}
	var all []string
	begin, depth := open+1, 1
	for i := open + 1; i < len(text); i++ {
		c := text[i]
		switch c {
		case '\\':
			i++
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth > 1 || depth == 1 && c != ',' {
			continue
		}
		all = append(all, text[begin:i])
		if begin = i + 1; depth == 0 {
			break
		}
	}
	var expanded []string
	for _, choice := range all {
		more, err := expand(text[:open] + choice + text[begin:])
		if err != nil {
			return nil, err
		}
		if expanded = append(expanded, more...); len(expanded) > maxAlternatives {
			return nil, &Mistake{fmt.Sprintf("stands for more than %d patterns", maxAlternatives), "use * or several patterns instead of {}"}
		}
	}
	return expanded, nil
}

func indexUnescaped(text string, c byte) int {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case c:
			return i
		}
	}
	return -1
}

// parseAlternative takes a pattern without braces apart.
func parseAlternative(text string, negated bool) (alternative, error) {
	var a alternative
	elements := strings.Split(text, "/")
	last := len(elements) - 1
	for _, element := range elements {
		if crosses(element) {
			return a, crossing(elements, element, negated)
		}
	}
	var hasTag, hasDigest bool
	elements[last], a.digest, hasDigest = strings.Cut(elements[last], "@")
	elements[last], a.tag, hasTag = strings.Cut(elements[last], ":")
	if err := checkDigest(a, hasTag, hasDigest, negated); err != nil {
		return a, err
	}
	if hasTag && !isTag(a.tag) {
		return a, &Mistake{fmt.Sprintf("can match no image: %q is not a tag", a.tag), `write letters, digits, ".", "_", "-" and wildcards behind the colon, or no colon`}
	}
	if err := checkName(elements, a.tag); err != nil {
		return a, err
	}
	if !hasTag && !hasDigest {
		a.open = strings.HasSuffix(elements[last], "*")
		if wildcard := strings.IndexAny(elements[last], "*?"); wildcard >= 0 && elements[last] != "**" && wildcard < len(elements[last])-1 {
			return a, &Mistake{"does not say whether it is about names or tags", fmt.Sprintf(
				"write the colon, as in %q for names and %q for tags", elements[last]+":*", "*:"+elements[last])}
		}
	}
	a.name = strings.Join(elements, "/")
	return a, nil
}

// crosses reports whether an element seems to cross slashes.
func crosses(element string) bool { return element != "**" && strings.Contains(element, "**") }

// crossing is the mistake of a ** that is no whole element: doublestar, as every shell, takes it for *.
func crossing(elements []string, element string, negated bool) error {
	remedy := `let ** stand alone between slashes, as in "registry.example.com/**" for all of a registry or "!**/*:latest" for a tag of all images`
	fixed := slices.Clone(elements)
	for i, e := range fixed {
		if !crosses(e) {
			continue
		}
		if name, tag, hasTag := strings.Cut(e, ":"); hasTag && !strings.Contains(name, "**") {
			fixed[i] = name + ":" + strings.ReplaceAll(tag, "**", "*")
		} else if rest, begins := strings.CutPrefix(e, "**"); begins {
			fixed[i] = "**/*" + rest
		}
	}
	suggestion := strings.Join(fixed, "/")
	if !slices.ContainsFunc(strings.Split(suggestion, "/"), crosses) {
		if _, err := parseAlternative(suggestion, negated); err == nil {
			if negated {
				suggestion = "!" + suggestion
			}
			remedy = fmt.Sprintf("write %q", suggestion)
		}
	}
	return &Mistake{fmt.Sprintf("has ** in %q, where it is no more than * and stays within a path element", element), remedy}
}

// checkDigest takes the digest of a pattern, with or without wildcards.
func checkDigest(a alternative, hasTag, hasDigest, negated bool) error {
	switch {
	case !hasDigest:
		return nil
	case negated:
		return &Mistake{"cannot forbid a digest: the same image has tags, and the digests of indexes that list it",
			"forbid the repository, or allow only what may be used"}
	case isWild(a.digest) && hasTag:
		return &Mistake{"has a tag that forbids nothing: what is pulled is what the digest names, whatever tag stands before it",
			"remove the tag, or write the whole digest"}
	case isWild(a.digest) && strings.Trim(a.digest, "*") == "":
		return nil
	case isWild(a.digest) && (strings.HasPrefix(a.digest, "sha256:") || strings.HasPrefix(a.digest, "sha512:")):
		return nil
	}
	if _, err := name.NewDigest("x@" + a.digest); err != nil {
		return &Mistake{fmt.Sprintf("can match no image: %q is not a digest", a.digest), `write "sha256:" and 64 hexadecimal digits in lower case, or "sha256:*"`}
	}
	return nil
}

// checkName takes the elements of host and path, and writes the host in lower case. The tag may be a port: of a host alone.
func checkName(elements []string, tag string) error {
	last := len(elements) - 1
	if slices.Contains(elements, "") {
		return &Mistake{"can match no image: an element of its path is empty", "write one / between elements, none before the first or behind the last"}
	}
	path := elements
	switch first := elements[0]; {
	case last == 0 && (strings.Contains(first, ".") || strings.EqualFold(first, "localhost")):
		if port.MatchString(tag) {
			first += ":" + tag
		}
		return &Mistake{"names an image of Docker Hub's, not a registry", fmt.Sprintf("write %q for all images of that registry", first+"/**")}
	case last > 0 && (isWild(first) || strings.ContainsAny(first, ".:") || strings.EqualFold(first, "localhost")):
		elements[0] = strings.ToLower(first)
		if err := checkHost(elements[0]); err != nil {
			return err
		}
		path = elements[1:]
	}
	for _, element := range path {
		switch {
		case element != strings.ToLower(element):
			return &Mistake{"can match no image: their names are in lower case", "write lower case; only hosts and tags may have capitals"}
		case !isElement(element):
			return &Mistake{fmt.Sprintf("can match no image: %q is no part of a name", element), grammarRemedy}
		}
	}
	return nil
}

// checkHost takes a host in lower case: without wildcards it has to be written as hosts are compared.
func checkHost(text string) error {
	if isWild(text) && hostParts.MatchString(literal(text)) {
		return nil
	}
	plain := unescape.Replace(text)
	host, ok := canonicalHost(plain)
	switch {
	case isWild(text) || !ok || !hostForm.MatchString(host):
		return &Mistake{fmt.Sprintf("can match no image: %q is not a registry's host", text), `write host or host:port, as in "registry.example.com:5000/**"`}
	case plain != host && plain != host+":443" && plain != host+":80":
		return &Mistake{fmt.Sprintf("can match no image: %q is not how that host is compared", text), fmt.Sprintf("write %q", host)}
	}
	return nil
}

// Forms of a registry's host, and of what stands between wildcards.
var (
	hostForm    = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:]+\])(:[1-9][0-9]*)?$`)
	hostParts   = regexp.MustCompile(`^[a-z0-9_.:-]*$`)
	tagParts    = regexp.MustCompile(`^[a-zA-Z0-9._-]*$`)
	pathParts   = regexp.MustCompile(`^[a-z0-9._-]*$`)
	port        = regexp.MustCompile(`^[0-9]+$`)
	wildcards   = regexp.MustCompile(`\*+|\?|\[[^\]]*\]`)
	escapedChar = regexp.MustCompile(`\\.`)
	unescape    = strings.NewReplacer(`\[`, "[", `\]`, "]")
)

func isWild(text string) bool { return wildcards.MatchString(escapedChar.ReplaceAllString(text, "")) }

// literal is what a text has beside wildcards and brackets.
func literal(text string) string {
	return wildcards.ReplaceAllString(escapedChar.ReplaceAllString(text, ""), "")
}

func isElement(text string) bool { return fits(text, elementForm, pathParts) }
func isTag(text string) bool     { return fits(text, tagForm, tagParts) }

// fits applies a form to a text without wildcards; of others only what stands between the wildcards can be judged.
func fits(text string, whole, parts *regexp.Regexp) bool {
	if isWild(text) {
		return parts.MatchString(literal(text))
	}
	return whole.MatchString(text)
}
