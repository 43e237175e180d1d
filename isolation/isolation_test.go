package isolation

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"al-0123456789ab": true, "a": true, "-": true, strings.Repeat("x", 40): true,
		"": false, strings.Repeat("x", 41): false, "A": false, "a b": false, "a/b": false, "..": false, "a.1": false,
		"a_b": false, "ä": false, "a\n": false, "a\x00": false, "a b-c": false,
	} {
		require.Equal(t, want, ValidID(id), "%q", id)
	}
}
