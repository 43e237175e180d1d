package imagepattern_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/policy/imagepattern"
)

const (
	digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	other  = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
)

// TestAPatternForbidsEverySpelling: with everything else allowed, a pattern forbids all ways to write what it names, and
// nothing else.
func TestAPatternForbidsEverySpelling(t *testing.T) {
	debian := []string{
		"debian", "debian:latest", "library/debian", "library/debian:latest", "docker.io/debian", "docker.io/library/debian:latest",
		"index.docker.io/debian:latest", "index.docker.io/library/debian", "registry-1.docker.io/library/debian:latest",
		"registry.hub.docker.com/library/debian", "Docker.io/library/debian", "INDEX.DOCKER.IO/debian", "docker.io:443/library/debian",
		"docker.io:0443/library/debian", "docker.io./library/debian", "index.docker.io.:443/debian", "docker.io:80/debian",
		"debian@" + digest, "debian:latest@" + digest, "debian:13@" + digest, "docker.io/library/debian@" + digest,
	}
	local := []string{
		"127.0.0.1:5555/lib/bb", "127.0.0.1:5555/lib/bb:latest", "127.0.0.1:05555/lib/bb:latest", "127.0.0.1.:5555/lib/bb",
		"[::ffff:127.0.0.1]:5555/lib/bb", "[::FFFF:7f00:1]:5555/lib/bb", "127.0.0.1:5555/lib/bb@" + digest, "127.0.0.1:5555/lib/bb:1@" + digest,
	}
	own := []string{
		"registry.example.com/team/app", "registry.example.com/team/app:latest", "Registry.EXAMPLE.com/team/app", "registry.example.com:443/team/app",
		"registry.example.com./team/app", "registry.example.com:80/team/app:latest", "registry.example.com/team/app@" + digest,
	}
	for _, c := range []struct {
		patterns           []string
		forbidden, allowed []string
	}{
		{[]string{"!debian:latest", "!library/debian:latest", "!docker.io/debian:latest", "!docker.io/library/debian:latest", "!index.docker.io/library/debian:latest",
			"!registry-1.docker.io/library/debian:latest", "!DOCKER.io/library/debian:latest", "!docker.io:443/library/debian:latest", "!debian:l*", "!debian:{latest,10}",
			"!debia?:[k-m]atest", "!**/debian:latest", "!docker.io/**/*:latest"},
			debian, []string{"debian:13", "docker.io/library/debian:13", "registry.example.com/debian2", "debian2:13"}},
		{[]string{"!debian", "!debian:*", "!docker.io/library/debian", "!docker.io/library/debian:*", "!debian*", "!library/*", "!docker.io/**"},
			append(debian, "debian:13", "docker.io/library/debian:13", "registry-1.docker.io/debian:13"),
			[]string{"registry.example.com/debian", "quay.io/library/debian", "127.0.0.1:5000/debian"}},
		{[]string{"!**/*:latest", "!*/**/*:latest", "!127.0.0.1:5555/**/*:latest", "!127.0.0.1:*/lib/*:latest", "!127.0.0.1:5555/lib/bb:latest", `!*/lib/bb:latest`},
			local, []string{"127.0.0.1:5555/lib/bb:1", "127.0.0.1:5555/lib/bb:latest2"}},
		{[]string{"!127.0.0.1:5555/**", "!127.0.0.1:5555/lib/*", "!127.0.0.1:5555/lib/bb", "!127.0.0.1:5555/**/bb:*"},
			append(local, "127.0.0.1:5555/lib/bb:1"), []string{"127.0.0.1:5556/lib/bb", "127.0.0.1/lib/bb:1", "lib/bb"}},
		{[]string{"!registry.example.com/**/*:latest", "!registry.example.com:443/team/app:latest", "!REGISTRY.example.com/team/app:latest", "!*.example.com/team/app:latest"},
			own, []string{"registry.example.com/team/app:1", "registry.example.org/team/app", "registry.example.com:5000/other/app:1"}},
		{[]string{"!127.0.0.1:5555/**", "!localhost:5555/**", `!\[::1\]:5555/lib/*`, "!LocalHost:*/**"}, []string{
			"127.0.0.1:5555/lib/x", "localhost:5555/lib/x", "LOCALHOST:5555/lib/x", "localhost.:5555/lib/x", "x.localhost:5555/lib/x", "[::1]:5555/lib/x:1",
			"0.0.0.0:5555/lib/x", "[::]:5555/lib/x", "127.0.0.2:5555/lib/x", "[::ffff:127.0.0.3]:5555/lib/x",
		}, []string{"localhost.example.com:5555/lib/x", "10.0.0.1:5555/lib/x", "docker.io/localhost/x"}},
		{[]string{`!\[::1\]:5000/**`}, []string{"[::1]:5000/x", "[0:0:0:0:0:0:0:1]:5000/x:1", "[::0001]:05000/y/x"}, []string{"[::2]:5000/x"}},
	} {
		for _, pattern := range c.patterns {
			for _, list := range [][]string{{pattern}, {"**", pattern}, {pattern, "**"}, {"**", "**/*:*", pattern}} {
				for _, image := range c.forbidden {
					allowed, why := imagepattern.Allows(list, image)
					require.False(t, allowed, "%q: %s", list, image)
					require.Contains(t, why, fmt.Sprintf("%q forbids it", pattern), image)
				}
				for _, image := range c.allowed {
					allowed, why := imagepattern.Allows(list, image)
					require.True(t, allowed, "%q: %s: %s", list, image, why)
				}
			}
		}
	}
}

// TestAPatternAllowsWhatItNames and no other image.
func TestAPatternAllowsWhatItNames(t *testing.T) {
	for pattern, c := range map[string]struct{ allowed, refused []string }{
		"debian": {
			[]string{"debian", "debian:latest", "library/debian", "docker.io/debian:latest", "index.docker.io/library/debian"},
			[]string{"debian:13", "debian@" + digest, "debian:latest@" + digest, "debian/debian", "registry-1.docker.io/library/debian", "evil.example.com/debian", "xdebian", "debian2"},
		},
		"debian:13": {
			[]string{"debian:13", "docker.io/library/debian:13", "library/debian:13"},
			[]string{"debian", "debian:13.1", "debian:13@" + digest, "debian@" + digest, "docker.io/evil/debian:13"},
		},
		"debian:1[23]*":                      {[]string{"debian:13", "debian:12.1", "debian:13-slim"}, []string{"debian:11", "debian:13@" + digest, "debian"}},
		"debian:*":                           {[]string{"debian", "debian:13", "debian:13@" + digest, "debian@" + digest, "docker.io/debian:13"}, []string{"debian2:13", "x/debian:13"}},
		"docker.io/library/debian:*":         {[]string{"debian:13", "index.docker.io/debian:13"}, []string{"docker.io/x/debian:13", "ubuntu"}},
		"debian@" + digest:                   {[]string{"debian@" + digest, "debian:13@" + digest, "docker.io/library/debian@" + digest}, []string{"debian", "debian:13", "debian@" + other, "ubuntu@" + digest}},
		"debian:13@" + digest:                {[]string{"debian@" + digest, "debian:13@" + digest}, []string{"debian:13", "debian:13@" + other}},
		"registry.example.com/**/*@sha256:*": {[]string{"registry.example.com/a/b@" + digest, "registry.example.com/a:1@" + digest}, []string{"registry.example.com/a", "registry.example.com/a:1", "a@" + digest}},
		"registry.example.com/**": {
			[]string{"registry.example.com/a", "registry.example.com/a/b/c:1", "REGISTRY.example.com/a", "registry.example.com/a@" + digest},
			[]string{
				"registry.example.com", "registry.example.com:5000/a", "registry.example.org/a", "docker.io/registry.example.com/a", "index.docker.io/registry.example.com/a:1",
				"library/registry.example.com", "evil.com/registry.example.com/a", "registry.example.com./a", "registry.example.com:443/a",
			},
		},
		"registry.example.com/team/**": {
			[]string{"registry.example.com/team/a", "registry.example.com/team/a/b:1"},
			[]string{
				"registry.example.com/team", "registry.example.com/team:1", "registry.example.com/team2/a", "registry.example.com/team/../other/a", "registry.example.com/team//a",
				"registry.example.com/./team/a", "registry.example.com/team/..", "registry.example.com/team/a/", "registry.example.com//team/a", "registry.example.com/team/a:..",
			},
		},
		"registry.example.com/*":  {[]string{"registry.example.com/a:1", "registry.example.com/a@" + digest}, []string{"registry.example.com/a/b"}},
		"registry.example.com/a*": {[]string{"registry.example.com/a", "registry.example.com/ab:1"}, []string{"registry.example.com/b", "registry.example.com/ab/c"}},
		"127.0.0.1:*/**":          {[]string{"127.0.0.1:5000/a", "127.0.0.1:5000/a/b:1"}, []string{"127.0.0.1/a", "127.0.0.1.evil.com:1/a", "[::ffff:127.0.0.1]:5000/a", "127.1:5000/a"}},
		"localhost:5000/**":       {[]string{"localhost:5000/a", "LOCALHOST:5000/a"}, []string{"docker.io/localhost:5000/a", "localhost/a", "localhost:50000/a"}},
		"localhost/**":            {[]string{"localhost/a"}, []string{"docker.io/localhost/a", "localhost"}},
		"{debian,alpine}:{13,3}":  {[]string{"debian:13", "alpine:3", "debian:3"}, []string{"debian", "alpine:4", "ubuntu:13"}},
		"{debian:13,quay.io/{a,b/**}}": {
			[]string{"debian:13", "quay.io/a", "quay.io/b/c/d:1"}, []string{"debian", "quay.io/a:1", "quay.io/c"},
		},
		"**": {[]string{"debian", "a.b/c/d:1", "x@" + digest}, []string{
			"docker-archive:/etc/passwd", "oci:/etc/x", "docker-archive:x", "https://a.b/c", "a b", "", "Debian", "debian:", "debian:latest ", " debian", "debian:latest#x", "debian:a:b",
			"debian@sha256:short", "user@host/x", "user:pass@a.b/c", "a.b:/c", "ｒegistry.example.com/x", "registry。example.com/x", "bücher.example/x", "0x7f.1:5000/x", "127.1/x",
			"2130706433:5000/x", "0177.0.0.1/x", "127.0.0.01/x", "a.b:x/c", ".:5000/x", "debian\x00", "debian\n", "a..b", "a.b/-c", "a.b/c_", "debian:-1", "debian:.", "%64ebian",
		}},
		"*/*:*": {[]string{"a/b:1", "quay.io/b:1", "debian"}, []string{"a.b/c/d:1"}},
	} {
		for _, list := range [][]string{{pattern}, {pattern, "!nothing:here"}} {
			for _, image := range c.allowed {
				allowed, why := imagepattern.Allows(list, image)
				require.True(t, allowed, "%q: %q: %s", list, image, why)
			}
			for _, image := range c.refused {
				allowed, _ := imagepattern.Allows(list, image)
				require.False(t, allowed, "%q: %q", list, image)
			}
		}
	}
	for _, image := range []string{"anything", "not a name", ""} {
		allowed, _ := imagepattern.Allows(nil, image)
		require.True(t, allowed, "an empty list asks nothing")
	}
}

func TestMistakes(t *testing.T) {
	for pattern, want := range map[string]string{
		// ** that is no whole element.
		"!**:latest":               `has ** in "**:latest", where it is no more than * and stays within a path element; write "!**/*:latest"`,
		"**:latest":                `write "**/*:latest"`,
		"!r.example.com/**:latest": `write "!r.example.com/**/*:latest"`,
		"foo**":                    `has ** in "foo**"`,
		"!foo**":                   `let ** stand alone between slashes`,
		"registry/**x":             `has ** in "**x"`,
		"registry/x**/y":           `has ** in "x**"`,
		"a/**b/c":                  `write "a/**/*b/c"`,
		"***":                      `has ** in "***"`,
		"a/**/**b:1":               `write "a/**/**/*b:1"`,
		"debian:**":                `write "debian:*"`,
		"!**latest":                `has ** in "**latest"`,
		"**@sha256:*":              `write "**/*@sha256:*"`,
		"{**:latest,x}":            `has ** in "**:latest"`,
		"!{a,b**}/x":               `has ** in "b**"`,
		"r.example.com:**/x":       `write "r.example.com:*/x"`,
		"!**{:latest,:13}":         `has ** in "**:latest"`,
		"!*{*/*,x}:latest":         "", // ** alone once the braces are gone
		// What matches no image.
		"":                                  "is not a pattern",
		"!":                                 "is not a pattern",
		"b/[":                               "close every [ and {",
		"b/{x":                              "close every [ and {",
		"!!debian":                          `begins with more than one "!"`,
		"! debian":                          "no name of one has such characters",
		"debian 13":                         "no name of one has such characters",
		"débian":                            "no name of one has such characters",
		strings.Repeat("x", 1025):           "or is so long",
		"https://registry.example.com/**":   "their names have no scheme",
		"Debian":                            "their names are in lower case",
		"registry.example.com/Team/**":      "their names are in lower case",
		"debian[A-Z]:*":                     "their names are in lower case",
		"registry.example.com/":             "an element of its path is empty",
		"!registry.example.com/":            "an element of its path is empty",
		"/debian":                           "an element of its path is empty",
		"registry.example.com//x":           "an element of its path is empty",
		"registry.example.com/**/":          "an element of its path is empty",
		"registry.example.com/../x":         `".." is no part of a name`,
		"registry.example.com/-x":           `"-x" is no part of a name`,
		"debian+:1":                         `"debian+" is no part of a name`,
		"debian~*:1":                        `"debian~*" is no part of a name`,
		"debian:":                           `"" is not a tag`,
		"debian:a:b":                        `"a:b" is not a tag`,
		"debian:+*":                         `"+*" is not a tag`,
		"debian:-x":                         `"-x" is not a tag`,
		"debian@sha256:abc":                 `"sha256:abc" is not a digest`,
		"debian@" + strings.ToUpper(digest): "is not a digest",
		"debian@md5:*":                      `"md5:*" is not a digest`,
		"debian@":                           `"" is not a digest`,
		"debian@a@b":                        `"a@b" is not a digest`,
		"!debian@" + digest:                 "cannot forbid a digest",
		"!**/*@*":                           "cannot forbid a digest",
		"debian:13@sha256:*":                "has a tag that forbids nothing",
		"registry.example.com":              `names an image of Docker Hub's, not a registry; write "registry.example.com/**"`,
		"!registry.example.com:5000":        `write "registry.example.com:5000/**"`,
		"!*.example.com":                    `write "*.example.com/**"`,
		"localhost":                         `write "localhost/**"`,
		"!localhost:5000":                   `write "localhost:5000/**"`,
		"registry.example.com./x":           `write "registry.example.com"`,
		"registry.example.com:0443/x":       `write "registry.example.com"`,
		"registry.example.com:05000/x":      `write "registry.example.com:5000"`,
		`!\[0:0:0:0:0:0:0:1\]:5000/**`:      `write "[::1]:5000"`,
		"registry.example.com:x/y":          "is not a registry's host",
		"registry.example.com:/y":           "is not a registry's host",
		"127.1/y":                           "is not a registry's host",
		"us+er.example.com/y":               "is not a registry's host",
		"user@registry.example.com/y":       "is not a registry's host",
		"*+.example.com/y":                  "is not a registry's host",
		"[::1]:5000/x":                      "has [::1], which is not a list of letters",
		"debian[^a]:1":                      "has [^a], which is not a list of letters",
		"!debian[!a]:1":                     "has [!a], which is not a list of letters",
		"debian[.-9]:1":                     "has [.-9], which is not a list of letters",
		"debian[0-z]":                       "has [0-z], which is not a list of letters",
		"debian[9-A]":                       "has [9-A], which is not a list of letters",
		"debian[,]":                         "has [,], which is not a list of letters",
		`debian\*`:                          `has \*, which no name of an image needs`,
		`!\{a\}`:                            `has \{, which no name of an image needs`,
		"!*latest":                          `does not say whether it is about names or tags; write the colon, as in "*latest:*" for names and "*:*latest" for tags`,
		"registry.example.com/*-nightly":    `write the colon, as in "*-nightly:*"`,
		"*x*":                               "does not say whether it is about names or tags",
		"!debian?13":                        "does not say whether it is about names or tags",
		strings.Repeat("{a,b,c,d}", 5):      "stands for more than 256 patterns",
		"{,x}":                              "an element of its path is empty",
	} {
		_, err := imagepattern.Parse(pattern)
		if want == "" {
			require.NoError(t, err, pattern)
			continue
		}
		var mistake *imagepattern.Mistake
		require.True(t, errors.As(err, &mistake), "%q", pattern)
		require.Contains(t, mistake.Wrong+"; "+mistake.Remedy, want, "%q", pattern)
		require.NotEmpty(t, mistake.Remedy, pattern)

		for _, list := range [][]string{{pattern}, {"**", pattern}, {pattern, "**"}} {
			allowed, why := imagepattern.Allows(list, "debian:13")
			require.False(t, allowed, "a list with a mistake allows nothing: %q", list)
			require.NotEmpty(t, why)
		}
	}
}

// TestRemediesAreRight: what a mistake proposes is a pattern.
func TestRemediesAreRight(t *testing.T) {
	for _, pattern := range []string{"!**:latest", "a.b/**:latest", "debian:**", "!**-x:1", "a/**b/c", "registry.example.com", "localhost:5000", "!*latest", "a.b./c"} {
		_, err := imagepattern.Parse(pattern)
		var mistake *imagepattern.Mistake
		require.True(t, errors.As(err, &mistake), pattern)
		quoted := strings.Split(mistake.Remedy, `"`)
		require.Greater(t, len(quoted), 2, mistake.Remedy)
		proposal := quoted[1]
		if pattern == "a.b./c" {
			proposal += "/c"
		}
		_, err = imagepattern.Parse(proposal)
		require.NoError(t, err, proposal)
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		a, b []string
		want bool
	}{
		{nil, nil, true}, {[]string{"a"}, nil, true}, {nil, []string{"a"}, false}, {nil, []string{"**"}, true}, {[]string{"a"}, []string{"**", "b"}, true},
		{[]string{"a"}, []string{"a", "b"}, true}, {[]string{"a", "c"}, []string{"a", "b"}, false}, {[]string{"a"}, []string{"a", "!b"}, false},
		{[]string{"a", "!b"}, []string{"a", "!b"}, true}, {[]string{"a", "!b", "!c"}, []string{"!b"}, true}, {[]string{"!b"}, []string{"a"}, false},
	} {
		require.Equal(t, c.want, imagepattern.Within(c.a, c.b), "%q %q", c.a, c.b)
	}
}

// FuzzAllows: whatever is written, it is a mistake or matches nothing that is no image, and what forbids wins.
func FuzzAllows(f *testing.F) {
	f.Add("!**/*:latest", "debian")
	f.Add("registry.example.com/**", "docker.io/registry.example.com/x")
	f.Add(`{a,b/{c,\[::1\]:5}/**}`, "[::1]:5/x@"+digest)
	f.Fuzz(func(t *testing.T, pattern, image string) {
		_, err := imagepattern.Parse(pattern)
		allowed, _ := imagepattern.Allows([]string{pattern}, image)
		if err != nil {
			require.False(t, allowed)
			return
		}
		if both, _ := imagepattern.Allows([]string{pattern, "!" + strings.TrimPrefix(pattern, "!")}, image); both {
			_, err := imagepattern.Parse("!" + strings.TrimPrefix(pattern, "!"))
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(pattern, "!"), "%q allows and forbids %q", pattern, image)
		}
	})
}
