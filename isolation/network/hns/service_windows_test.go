package hns

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHostServers asks the machine that it runs on, which may have none.
func TestHostServers(t *testing.T) {
	servers, err := hostServers()
	require.NoError(t, err)
	for _, server := range servers {
		require.True(t, server.Is4() && !server.IsLoopback(), server)
	}
	t.Log(servers)
}
