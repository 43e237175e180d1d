package executor

import (
	"crypto/rand"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/private"
)

// TestPipesTellRights connects to both pipes. That Windows keeps strangers out is its own promise.
func TestPipesTellRights(t *testing.T) {
	path := `\\.\pipe\airlock-test-` + strings.ToLower(rand.Text())
	listener, err := listen(path, "")
	require.NoError(t, err)
	for pipe, want := range map[string]rights{path: rightsAll, path + jobsSuffix: rightsJobs} {
		client, err := private.DialPipe(t.Context(), pipe)
		require.NoError(t, err)
		conn, err := listener.Accept()
		require.NoError(t, err)
		who, err := identify(conn, "")
		require.NoError(t, err)
		require.Equal(t, want, who.rights, pipe)
		require.NoError(t, client.Close())
		require.NoError(t, conn.Close())
	}
	require.NoError(t, listener.Close())
	_, err = listener.Accept()
	require.True(t, errors.Is(err, net.ErrClosed))
	_, err = identify(&net.IPConn{}, "")
	require.Error(t, err)
}
