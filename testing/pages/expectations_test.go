package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// named is a test as the page names it: the package's directory, the function, and perhaps a case.
var named = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)`")

// TestExpectationsAreHeld: each line of docs/expectations.md names what holds it, and every test that it names is there.
func TestExpectationsAreHeld(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/expectations.md"))
	require.NoError(t, err)
	lines := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || !regexp.MustCompile(`^ \d+ $`).MatchString(cells[1]) {
			continue
		}
		lines++
		tests := named.FindAllStringSubmatch(cells[3], -1)
		require.NotEmpty(t, tests, line)
		for _, test := range tests {
			require.True(t, hasFunction(t, test[1], test[2]), "%s has no %s", test[1], test[2])
		}
		for _, promise := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(cells[3], -1) {
			require.True(t, contains(t, "testing/conformance", `{"`+promise[1]+`"`), "the conformance suite has no %q", promise[1])
		}
	}
	require.Equal(t, 28, lines)
}

func hasFunction(t *testing.T, dir, function string) bool {
	return contains(t, dir, "\nfunc "+function+"(t *testing.T)")
}

// contains reports whether a Go file of a directory contains a text.
func contains(t *testing.T, dir, text string) bool {
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "%s has no Go files", dir)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		if strings.Contains(string(content), text) {
			return true
		}
	}
	return false
}

// TestThePagesAgreeOnTheHelper: both pages about the helper image name every way by which an author's code runs in stages
// that have credentials, and neither calls the helper root a protection against them.
func TestThePagesAgreeOnTheHelper(t *testing.T) {
	for _, name := range []string{"security.md", "install.md"} {
		page, err := os.ReadFile(filepath.Join(root, "docs", name))
		require.NoError(t, err)
		for _, way := range []string{"`GITLAB_ENV`", "`PATH`", "git's"} {
			require.Contains(t, string(page), way, name)
		}
	}
}
