package hcssim

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// newBroker serves a service without guests.
func newBroker(t *testing.T) *broker {
	t.Helper()
	b, err := listen("secret")
	require.NoError(t, err)
	t.Cleanup(b.close)
	b.serve(service.New(service.Config{Log: t.Logf}))
	t.Cleanup(b.service.Close)
	return b
}

// dial opens a connection as the DLLs of a process do, and returns it when the broker has answered.
func dial(t *testing.T, b *broker, purpose string, pid uint64) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", b.port()))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, service.WriteMessage(conn, []byte("secret"), []byte(purpose), pid))
	_, err = service.ReadMessage(conn)
	require.NoError(t, err)
	return conn
}

// TestSettle: what a client left is known, however soon it is asked for.
func TestSettle(t *testing.T) {
	b := newBroker(t)
	var clients []net.Conn
	for pid := range uint64(200) {
		clients = append(clients, dial(t, b, "client", pid))
		dial(t, b, "callback", pid)
	}
	for _, conn := range clients {
		conn.Close()
	}
	b.settle(5 * time.Second)
	require.Len(t, b.service.Leaks(), 200)
}

// TestLockOrder: the service ends callbacks while the broker calls it.
func TestLockOrder(t *testing.T) {
	b := newBroker(t)
	dial(t, b, "client", 8)
	dial(t, b, "callback", 8)
	b.mu.Lock() // as attend does, which then waits for the service
	defer b.mu.Unlock()
	ended := make(chan struct{})
	go func() { b.service.Reboot(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the service waits for the broker, which may wait for it")
	}
}
