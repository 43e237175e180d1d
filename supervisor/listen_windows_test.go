package supervisor

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEachRunDirectoryHasAPipeOfItsOwn(t *testing.T) {
	path := DefaultSocket(t.TempDir())
	require.NotEqual(t, path, DefaultSocket(`C:\elsewhere`))
}
