package agent

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
)

// guestThatSays returns the executor's end of a connection on which a guest says something, hears everything, and
// then hangs up or waits.
func guestThatSays(t *testing.T, said string, hangUp bool) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = ours.Close() })
	go func() {
		_, _ = theirs.Write([]byte(said))
		if hangUp {
			_ = theirs.Close()
		}
	}()
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := theirs.Read(buf); err != nil {
				return
			}
		}
	}()
	return ours
}

func frameOf(typ frame.Type, payload string) string {
	buf := make([]byte, frame.HeaderLength+len(payload))
	copy(buf[frame.HeaderLength:], payload)
	return string(frame.Put(buf, typ, len(payload)))
}

func TestGuestsThatLie(t *testing.T) {
	for said, want := range map[string]string{
		"":                               "no reply",
		frameOf(frameReply, `{}`):        "does not greet",
		frameOf(frameStdout, `{}`):       "instead of a reply",
		frameOf(frameReply, `{"hello":`): "cannot be read",
		"\x05\xff\xff\xff\xff":           "claims 4294967295 bytes",
		frameOf(frameReply, `{"hello":{"version":9}}`):                  "same release",
		frameOf(frameReply, `{"error":{"message":"no\u001b[2J disk"}}`): "no [2J disk",
	} {
		err := AwaitGuest(t.Context(), guestThatSays(t, said, true))
		require.ErrorContains(t, err, want)
	}
	err := AwaitSetup(t.Context(), guestThatSays(t, frameOf(frameReply, `{"error":{"author":true,"message":"odd image"}}`), true))
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

func TestGuestThatIsSilent(t *testing.T) {
	why := errors.New("too slow")
	for what, wait := range map[string]func(context.Context, DeadlineConn) error{
		"booting": AwaitGuest,
		"hearing": func(ctx context.Context, conn DeadlineConn) error { return TellGuest(ctx, conn, GuestSetup{}) },
		"setup":   AwaitSetup,
	} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
		began := time.Now()
		require.ErrorIs(t, wait(ctx, guestThatSays(t, "", false)), why, what)
		require.Less(t, time.Since(began), 5*time.Second)
		cancel()
	}
	huge := GuestSetup{Files: map[string]string{"etc/hosts": strings.Repeat("x", maxGuestSetup)}}
	require.ErrorContains(t, TellGuest(t.Context(), guestThatSays(t, "", false), huge), "more than")
}

// FuzzGuest: no guest makes the executor's side of the start do anything but fail or go on.
func FuzzGuest(f *testing.F) {
	f.Add([]byte(frameOf(frameReply, `{"hello":{"version":1}}`) + frameOf(frameReply, `{}`)))
	f.Add([]byte(frameOf(frameReply, `{"error":{"message":"x"}}`)))
	f.Fuzz(func(t *testing.T, said []byte) {
		conn := guestThatSays(t, string(said), true)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if AwaitGuest(ctx, conn) == nil {
			_ = AwaitSetup(ctx, conn)
		}
		require.NoError(t, ctx.Err())
	})
}

// FuzzGuestSetup is the other side's parser.
func FuzzGuestSetup(f *testing.F) {
	f.Add([]byte(`{"version":1,"entropy":"` + strings.Repeat("A", 88) + `"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		setup, err := parseGuestSetup(payload)
		if err == nil {
			require.GreaterOrEqual(t, len(setup.Entropy), GuestEntropy)
		}
	})
}
