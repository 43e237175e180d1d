//go:build unix

package driver_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
)

// resumable starts a host whose executor lets calls be resumed. Its stage's output is the bytes 0, 1, 2, ... one
// a frame, then the result; serve sends some of it after the frames that the driver has.
func resumable(t *testing.T, serve func(stream hostpb.Host_CallServer, first input, received uint64) error) string {
	socket := filepath.Join(t.TempDir(), "host.sock")
	serveAt(t, socket, &fakeHost{protocol: api.ProtocolVersion, resumes: true,
		call: func(_ context.Context, stream hostpb.Host_CallServer) error {
			open, err := stream.Recv()
			if err != nil {
				return err
			}
			if resume := open.GetResume(); resume != nil {
				return serve(stream, input{opening: open}, resume.GetReceived())
			}
			var in input
			for in.opening = open; ; {
				frame, err := stream.Recv()
				if err != nil {
					return err
				}
				if frame.GetEnd() {
					return serve(stream, in, 0)
				}
				in.data = append(in.data, frame.GetData()...)
			}
		}})
	return socket
}

func TestACallOverManyConnections(t *testing.T) {
	t.Parallel()
	const frames = 7
	ids := make(chan string, 2*frames)
	socket := resumable(t, func(stream hostpb.Host_CallServer, in input, received uint64) error {
		ids <- in.opening.GetRun().GetCallId() + in.opening.GetResume().GetCallId()
		if received == frames {
			return stream.Send(result(&api.Result{Ok: true, ExitCode: 9}))
		}
		return stream.Send(stdout([]byte{byte('0' + received)})) // and no more
	})
	d := newRunnerDir(t, "")
	require.Equal(t, ended{41, "0123456", ""}, run(t, d.command("run", "--socket", socket, d.path("script"), "build_script")))
	require.Equal(t, "9\n", d.exitCode(t))
	first := <-ids
	require.Regexp(t, "^[0-9a-f]{32}$", first)
	for range frames {
		require.Equal(t, first, <-ids)
	}
	require.Empty(t, ids)
}

func TestACallThatNeverBeganIsMadeAnew(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	socket := resumable(t, func(stream hostpb.Host_CallServer, in input, _ uint64) error {
		switch call := calls.Add(1); {
		case call == 1:
			return nil // the host dies
		case in.opening.GetResume() != nil:
			return stream.Send(result(&api.Result{Unknown: true}))
		}
		return stream.Send(stdout(in.data))
	})
	d := newRunnerDir(t, "")
	end := run(t, d.command("run", "--socket", socket, d.path("script"), "build_script"))
	require.Equal(t, 42, end.code)
	require.Equal(t, "a script", end.stdout, "it was made anew once; after the first frame no more")
}

func TestADriverAcknowledgesWhatItIsDoneWith(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	socket := resumable(t, func(stream hostpb.Host_CallServer, _ input, _ uint64) error {
		frame := stdout(make([]byte, 1000))
		sent, acked := 0, 0
		for sent*1000 < size {
			for (sent-acked+1)*api.FrameCost(frame) > api.Window {
				got, err := stream.Recv()
				if err != nil {
					return err
				}
				acked = int(got.GetAck())
			}
			if err := stream.Send(frame); err != nil {
				return err
			}
			sent++
		}
		return stream.Send(result(&api.Result{Ok: true}))
	})
	d := newRunnerDir(t, "")
	end := run(t, d.command("run", "--socket", socket, d.path("script"), "build_script"))
	require.Zero(t, end.code, end.stderr)
	require.Len(t, end.stdout, (size+999)/1000*1000)
}

func TestAHostThatKeepsDyingLosesTheCallInTheEnd(t *testing.T) {
	t.Parallel()
	socket := resumable(t, func(hostpb.Host_CallServer, input, uint64) error { return nil })
	d := newRunnerDir(t, "")
	started := time.Now()
	end := run(t, d.command("run", "--socket", socket, d.path("script"), "build_script"))
	require.Equal(t, 42, end.code)
	require.Contains(t, end.stderr, "the connection to the Airlock service at "+socket+" broke")
	require.InDelta(t, 30, time.Since(started).Seconds(), 3)
}
