package service

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// connected returns both ends of a connection.
func connected(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	dialed, err := net.Dial("tcp4", listener.Addr().String())
	require.NoError(t, err)
	accepted, err := listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// TestLateInput: what a client wrote into stdin before it was closed by a call arrives, however slowly.
func TestLateInput(t *testing.T) {
	s := New(Config{})
	number := s.streams.when(true, true, true)
	client, clientFar := connected(t)
	guest, guestFar := connected(t)
	s.ClientStream(number, clientFar)
	s.GuestStream(number, guestFar)
	_, err := io.WriteString(client, "one")
	require.NoError(t, err)
	s.streams.closeIn(number)
	for range 3 {
		time.Sleep(quiet / 2)
		_, err = io.WriteString(client, " more")
		require.NoError(t, err)
	}
	guest.SetReadDeadline(time.Now().Add(10 * time.Second))
	text, err := io.ReadAll(guest)
	require.NoError(t, err, "quiet is its end")
	require.Equal(t, "one more more more", string(text))
}
