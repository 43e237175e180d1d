package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation"
)

// impostor plays the agent's side; handle answers each stream after its request was read.
func impostor(t *testing.T, handle func(stream *yamux.Stream, req request)) (ours net.Conn) {
	ours, theirs := net.Pipe()
	config := frame.Config(time.Second, startTimeout)
	session, err := yamux.Server(theirs, config)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return
			}
			go func() {
				if req, err := impostorRequest(stream); err == nil {
					handle(stream, req)
				}
			}()
		}
	}()
	t.Cleanup(func() {
		session.Close()
		<-done
		goleak.VerifyNone(t)
	})
	return ours
}

func impostorRequest(stream *yamux.Stream) (request, error) {
	_, payload, err := frame.Read(stream, make([]byte, maxRequest))
	if err != nil {
		return request{}, err
	}
	return parseRequest(payload)
}

// honest answers everything but starts as the agent does.
func honest(stream *yamux.Stream, req request, start func()) {
	switch req.Op {
	case opHello:
		frame.WriteJSON(stream, frameReply, reply{Hello: req.Hello})
		stream.Close()
	case opStart:
		start()
	default:
		frame.WriteJSON(stream, frameReply, reply{})
		stream.Close()
	}
}

func TestGreetingRefused(t *testing.T) {
	for name, c := range map[string]struct {
		handle func(stream *yamux.Stream, req request)
		says   string
	}{
		"silence": {func(*yamux.Stream, request) {}, "the test ran out of patience"},
		"other nonce": {func(s *yamux.Stream, _ request) {
			frame.WriteJSON(s, frameReply, reply{Hello: &greeting{Version: Version, Nonce: "x"}})
		}, "nonce"},
		"no greeting": {func(s *yamux.Stream, _ request) { frame.WriteJSON(s, frameReply, reply{}) }, "nonce"},
		"other version": {func(s *yamux.Stream, r request) {
			r.Hello.Version = 99
			frame.WriteJSON(s, frameReply, reply{Hello: r.Hello})
		}, "protocol version 99"},
		"not JSON":    {func(s *yamux.Stream, _ request) { frame.Write(s, frameReply, []byte("{")) }, "cannot be read"},
		"other frame": {func(s *yamux.Stream, _ request) { frame.Write(s, frameStdout, []byte("{}")) }, "instead of a reply"},
		"huge frame":  {func(s *yamux.Stream, _ request) { s.Write([]byte{byte(frameReply), 0xff, 0xff, 0xff, 0xff}) }, "claims 4294967295 bytes"},
		"end":         {func(s *yamux.Stream, _ request) { s.Close() }, "no reply"},
		"end of all":  {func(s *yamux.Stream, _ request) { s.Session().Close() }, "sandbox is gone"},
		"error": {func(s *yamux.Stream, _ request) {
			frame.WriteJSON(s, frameReply, reply{Error: &wireError{Message: "bad\n\x1b[31mnews" + strings.Repeat("!", 5000)}})
		}, "bad  [31mnews!!!"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := impostor(t, c.handle)
			ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("the test ran out of patience"))
			defer cancel()
			_, err := Connect(ctx, conn, Setup{})
			require.ErrorContains(t, err, c.says)
			require.Less(t, len(err.Error()), 1200)
			_, err = conn.Write([]byte("x"))
			require.ErrorIs(t, err, io.ErrClosedPipe, "Connect closes the connection that it could not use")
		})
	}
}

func TestLyingAboutAProcess(t *testing.T) {
	for name, c := range map[string]struct {
		after func(stream *yamux.Stream)
		says  string
		gone  bool
	}{
		"no exit":            {func(s *yamux.Stream) { s.Close() }, "no exit frame", true},
		"short exit":         {func(s *yamux.Stream) { frame.Write(s, frameExit, []byte{1}) }, "exit frame", true},
		"impossible signal":  {func(s *yamux.Stream) { frame.Write(s, frameExit, []byte{0, 200, 0}) }, "exit frame", true},
		"empty output":       {func(s *yamux.Stream) { frame.Write(s, frameStdout, nil) }, "no bytes", true},
		"huge output":        {func(s *yamux.Stream) { s.Write([]byte{byte(frameStdout), 0, 1, 0, 1}) }, "claims 65537 bytes", true},
		"input":              {func(s *yamux.Stream) { frame.Write(s, frameStdin, []byte("x")) }, "from a process", true},
		"half a frame":       {func(s *yamux.Stream) { s.Write([]byte{byte(frameStdout), 0, 0, 0, 9, 'x'}); s.Close() }, "no exit frame", true},
		"second reply":       {func(s *yamux.Stream) { frame.WriteJSON(s, frameReply, reply{}) }, "second reply", true},
		"end of the sandbox": {func(s *yamux.Stream) { s.Session().Close() }, "sandbox is gone", true},
		"honest failure":     {func(s *yamux.Stream) { frame.WriteJSON(s, frameReply, reply{Error: &wireError{Message: "stuck"}}) }, "stuck", false},
	} {
		t.Run(name, func(t *testing.T) {
			conn := impostor(t, func(s *yamux.Stream, req request) {
				honest(s, req, func() {
					frame.WriteJSON(s, frameReply, reply{})
					c.after(s)
				})
			})
			client, err := Connect(t.Context(), conn, Setup{})
			require.NoError(t, err)
			defer client.Close()
			p, err := client.Start(t.Context(), isolation.ProcessSpec{Args: []string{"x"}})
			require.NoError(t, err)
			_, err = p.Wait()
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.gone, errors.Is(err, isolation.ErrSandboxGone), "an agent that lies is not talked to any more")
			if c.gone {
				<-client.Done()
			}
		})
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	closed := make(chan struct{})
	conn := impostor(t, func(s *yamux.Stream, req request) {
		honest(s, req, func() {
			io.Copy(io.Discard, s)
			close(closed)
		})
	})
	client, err := Connect(t.Context(), conn, Setup{})
	require.NoError(t, err)
	defer client.Close()
	cause := errors.New("the job was cancelled")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	_, err = client.Start(ctx, isolation.ProcessSpec{Script: make([]byte, 1<<20)})
	require.ErrorIs(t, err, cause)
	select {
	case <-closed: // and with that an honest agent kills what it may have started
	case <-time.After(5 * time.Second):
		t.Fatal("the stream stayed open")
	}
	_, err = client.Ping(t.Context())
	require.NoError(t, err, "one impatient caller costs nobody else anything")
}

func TestKilledProcessThatNeverEnds(t *testing.T) {
	conn := impostor(t, func(s *yamux.Stream, req request) {
		honest(s, req, func() {
			frame.WriteJSON(s, frameReply, reply{})
			for frame.Write(s, frameStdout, []byte("and on")) == nil {
			}
		})
	})
	client, err := Connect(t.Context(), conn, Setup{})
	require.NoError(t, err)
	defer client.Close()
	p, err := client.Start(t.Context(), isolation.ProcessSpec{Args: []string{"x"}})
	require.NoError(t, err)
	p.(*process).clock.change(func() { p.(*process).clock.left = 100 * time.Millisecond })
	require.NoError(t, p.Signal(t.Context(), 9))
	_, err = p.Wait()
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	require.ErrorContains(t, err, "did not report the end")
}

func TestKillClockStandsStillWhileTheConsumerIsBusy(t *testing.T) {
	expired := make(chan struct{})
	clock := newKillClock(60*time.Millisecond, func() { close(expired) })
	clock.start()
	clock.pause()
	select {
	case <-expired:
		t.Fatal("it ran while it was paused")
	case <-time.After(150 * time.Millisecond):
	}
	clock.resume()
	<-expired

	stopped := newKillClock(20*time.Millisecond, func() { t.Error("it ran after it was stopped") })
	stopped.start()
	stopped.stop()
	stopped.resume()
	time.Sleep(60 * time.Millisecond)
}

// yamuxFrame is a header as it goes over the wire.
func yamuxFrame(typ byte, flags uint16, stream, length uint32) []byte {
	header := make([]byte, 12)
	header[1] = typ
	binary.BigEndian.PutUint16(header[2:], flags)
	binary.BigEndian.PutUint32(header[4:], stream)
	binary.BigEndian.PutUint32(header[8:], length)
	return header
}

func TestFloodsBelowTheProtocol(t *testing.T) {
	const (
		data, windowUpdate, ping = 0, 1, 2
		syn                      = 1
	)
	for name, flood := range map[string][]byte{
		"pings":           yamuxFrame(ping, syn, 0, 1),
		"streams":         yamuxFrame(windowUpdate, syn, 2, 0),
		"streams of data": append(yamuxFrame(data, syn, 2, 4), "data"...),
		"too much data":   yamuxFrame(data, 0, 1, frame.Window+1),
		"unknown frames":  yamuxFrame(9, 0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			ours, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs)
			go func() {
				for {
					if _, err := theirs.Write(flood); err != nil {
						return
					}
				}
			}()
			defer theirs.Close()
			_, err := Connect(t.Context(), ours, Setup{})
			require.ErrorIs(t, err, isolation.ErrSandboxGone)
		})
	}
}

// tape is a stream that plays what a hostile agent sent.
type tape struct {
	io.Reader
}

func (tape) Write(p []byte) (int, error) { return len(p), nil }
func (tape) Close() error                { return nil }

func FuzzDeliver(f *testing.F) {
	encode := func(typ frame.Type, payload string) []byte {
		var b bytes.Buffer
		frame.Write(&b, typ, []byte(payload))
		return b.Bytes()
	}
	f.Add(frames(encode(frameStdout, "out"), encode(frameStderr, "err"), encode(frameExit, "\x03\x00\x00")))
	f.Add(frames(encode(frameExit, "\x00\x09\x01")))
	f.Add(frames(encode(frameReply, `{"error":{"author":true,"message":"m","remedy":"r"}}`)))
	f.Add(frames(encode(frameStdout, strings.Repeat("x", frame.MaxPayload))))
	f.Add([]byte{byte(frameStdout), 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, wire []byte) {
		var stdout, stderr bytes.Buffer
		p := &process{stream: tape{bytes.NewReader(wire)}, clock: newKillClock(time.Hour, func() {})}
		exit, err := p.deliver(newSink(&stdout), newSink(&stderr))
		require.LessOrEqual(t, stdout.Len()+stderr.Len(), len(wire))
		if err != nil {
			require.Zero(t, exit)
			require.NotEqual(t, fault.Admin, fault.ClassOf(err), "an agent cannot speak for the administrator")
			return
		}
		require.GreaterOrEqual(t, exit.Code, 0)
		require.LessOrEqual(t, exit.Code, 255)
		if exit.Signal != 0 {
			require.Equal(t, 128+exit.Signal, exit.Code)
		}
	})
}

func frames(all ...[]byte) []byte { return bytes.Join(all, nil) }
