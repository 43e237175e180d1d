package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestContributingNamesWhatIsThere: each file and folder that the checklists name exists, and there are twelve of them.
func TestContributingNamesWhatIsThere(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	require.NoError(t, err)
	_, lists, found := strings.Cut(string(text), "\n## Twelve usual changes")
	require.True(t, found)
	require.Equal(t, 12, strings.Count(lists, "\n### "))
	named := regexp.MustCompile("`([a-z0-9.-]+/[A-Za-z0-9_./-]*)`").FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(named), 36)
	for _, match := range named {
		_, err := os.Stat(filepath.Join(root, match[1]))
		require.NoError(t, err, "CONTRIBUTING.md names %s", match[1])
	}
}
