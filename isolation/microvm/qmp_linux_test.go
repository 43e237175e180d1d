package microvm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation/agent"
)

// FuzzMonitor: whatever a QEMU says that a guest has taken over, the monitor ends or waits for more.
func FuzzMonitor(f *testing.F) {
	f.Add([]byte(`{"QMP":{"version":{}}}` + "\n" + `{"return":{}}` + "\n" + `{"event":"SHUTDOWN","data":{"reason":"guest-reset"}}` + "\n"))
	f.Add([]byte(`{"error":{"class":"GenericError","desc":"no"}}` + "\n"))
	f.Add([]byte(`{"return":[` + "\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs, err := agent.SocketPair()
		require.NoError(t, err)
		events := 0
		q := newQMP(ours, func(qmpMessage) { events++ })
		_, _ = theirs.Write(said[:min(len(said), maxQMP)])
		require.NoError(t, theirs.Close())
		select {
		case <-q.done:
		case <-time.After(10 * time.Second):
			t.Fatal("the monitor does not end with its connection")
		}
		require.LessOrEqual(t, len(q.answers), keptEvents)
		require.LessOrEqual(t, events, len(said))
	})
}

func TestMonitorBounds(t *testing.T) {
	ours, theirs, err := agent.SocketPair()
	require.NoError(t, err)
	q := newQMP(ours, func(qmpMessage) {})
	endless := make([]byte, 2*maxQMP)
	for i := range endless {
		endless[i] = 'x'
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = theirs.Write(endless)
	}()
	select {
	case <-q.done:
	case <-time.After(10 * time.Second):
		require.Fail(t, "a message without an end is read on")
	}
	_, err = q.run(capabilitiesCommand)
	require.Error(t, err)
	<-written
	require.NoError(t, theirs.Close())

	var kept tail
	for range 100 {
		_, err := kept.Write(endless[:1000])
		require.NoError(t, err)
	}
	require.Len(t, kept.text(), keptOutput)
}
