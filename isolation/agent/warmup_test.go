package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/frame"
)

// TestRelay: bytes pass, the end is told from the connection's, and nothing of what follows it is lost.
func TestRelay(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	content := bytes.Repeat([]byte("0123456789"), frame.MaxPayload/5) // two frames
	go func() {
		stage := newRelay(theirs)
		_, _ = stage.Write(content)
		_ = stage.Close()
		_ = stage.Close()
		_, _ = theirs.Write([]byte("after"))
	}()
	stage := newRelay(ours)
	got, err := io.ReadAll(iotest.HalfReader(stage))
	require.NoError(t, err)
	require.Equal(t, content, got)
	rest := make([]byte, 5)
	_, err = io.ReadFull(ours, rest)
	require.NoError(t, err)
	require.Equal(t, "after", string(rest))
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	require.NoError(t, stage.Close())
	_, err = stage.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// TestGuestsThatWarmUpBadly: each lie is an error, and silence ends with the context.
func TestGuestsThatWarmUpBadly(t *testing.T) {
	hello := frameOf(frameReply, `{"hello":{"version":1}}`)
	relayed := func(said string) string { return frameOf(frameRelay, said) }
	end := relayed("")
	for said, want := range map[string]string{
		hello:                             "no reply",
		hello + frameOf(frameReply, `{}`): "in a warm-up",
		hello + relayed("\x05\xff\xff\xff\xff") + end:                                 "claims 4294967295 bytes",
		hello + relayed(frameOf(frameReply, `{"error":{"message":"no disk"}}`)) + end: "no disk",
		hello + relayed(frameOf(frameReply, `{}`)) + end:                              "the agent",
		hello + "\x09\xff\xff\xff\xff":                                                "claims 4294967295 bytes",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := WarmUp(ctx, guestThatSays(t, said, true), GuestSetup{}, func(context.Context, *Client) error { return nil })
		require.ErrorContains(t, err, want, "%q", said)
		require.NoError(t, ctx.Err())
		cancel()
	}
	why := errors.New("too slow")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
	defer cancel()
	require.ErrorIs(t, WarmUp(ctx, guestThatSays(t, hello, false), GuestSetup{}, nil), why)
}

// FuzzWarmUp: no guest makes the executor's side of a warm-up do anything but fail or go on.
func FuzzWarmUp(f *testing.F) {
	f.Add([]byte(frameOf(frameReply, `{"hello":{"version":1}}`) + frameOf(frameRelay, frameOf(frameReply, `{}`)) + frameOf(frameRelay, "")))
	f.Fuzz(func(t *testing.T, said []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = WarmUp(ctx, guestThatSays(t, string(said), true), GuestSetup{}, func(context.Context, *Client) error { return nil })
		require.NoError(t, ctx.Err())
	})
}
