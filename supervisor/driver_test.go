//go:build linux

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
)

// driver is one plain ttrpc connection, as a driver has.
type driver struct {
	hostpb.HostClient
	wire *ttrpc.Client
}

func dial(t *testing.T, socket string) *driver {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	wire := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = wire.Close() })
	return &driver{hostpb.NewHostClient(wire), wire}
}

// callStream is a call on a driver's connection.
type callStream struct {
	hostpb.Host_CallClient
	driver *driver
}

func runFrame(stage string) *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Run{Run: &api.Run{Handle: "1-a", Stage: stage}}}
}

func dataFrame(data []byte) *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Data{Data: data}}
}

func endFrame() *api.ClientFrame { return &api.ClientFrame{Kind: &api.ClientFrame_End{End: true}} }

func signalFrame(n uint32) *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Signal{Signal: n}}
}

// open starts a call with these frames.
func open(t *testing.T, d *driver, frames ...*api.ClientFrame) callStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := d.Call(ctx)
	require.NoError(t, err)
	for _, frame := range frames {
		require.NoError(t, stream.Send(frame))
	}
	return callStream{stream, d}
}

// outcome is all that a call answered.
type outcome struct {
	stdout, stderr bytes.Buffer
	result         *api.Result
}

// finish reads a call to its end, checks that its end is one result and nothing after it, and hangs up.
func finish(t *testing.T, stream callStream) *outcome {
	t.Helper()
	var o outcome
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			require.NotNil(t, o.result, "the call ended without a result")
			_ = stream.driver.wire.Close()
			return &o
		}
		require.NoError(t, err, "after the output %q and the result %v", &o.stdout, o.result)
		require.Nil(t, o.result, "something follows the result")
		o.stdout.Write(frame.GetStdout())
		o.stderr.Write(frame.GetStderr())
		o.result = frame.GetResult()
	}
}

// call makes one call on a connection of its own.
func call(t *testing.T, socket string, frames ...*api.ClientFrame) *outcome {
	t.Helper()
	return finish(t, open(t, dial(t, socket), frames...))
}

// run makes a stage's call with a script.
func run(t *testing.T, socket, stage, text string) *outcome {
	t.Helper()
	return call(t, socket, runFrame(stage), dataFrame([]byte(text)), endFrame())
}

// driverMain is a driver process: it runs the stage of its second argument over the socket of its first and
// prints what it gets. With a third argument it never reads.
func driverMain() error {
	conn, err := net.Dial("unix", os.Args[1])
	if err != nil {
		return err
	}
	if len(os.Args) > 3 {
		conn = deaf{conn}
	}
	host := hostpb.NewHostClient(ttrpc.NewClient(conn))
	if os.Args[2] == "version" {
		_, err := host.Version(context.Background(), &api.VersionRequest{})
		if err == nil {
			_, err = host.Images(context.Background(), &api.ImagesRequest{})
		}
		return err
	}
	stream, err := host.Call(context.Background())
	if err != nil {
		return err
	}
	if os.Args[2] == "stuff" { // stdin that nobody reads
		sandbox := &api.Sandbox{Command: []string{"hang"}}
		_ = stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_Sandbox{Sandbox: sandbox}})
		go func() {
			for stream.Send(dataFrame(make([]byte, api.MaxChunk))) == nil {
			}
		}()
	} else {
		frame := runFrame(os.Args[2])
		if class, ok := strings.CutPrefix(os.Args[2], "prepare:"); ok {
			frame = &api.ClientFrame{Kind: &api.ClientFrame_Prepare{Prepare: &api.Prepare{Handle: "1-x", RunnerClass: class, RunnerUid: 1}}}
		}
		for _, frame := range []*api.ClientFrame{frame, endFrame()} {
			if err := stream.Send(frame); err != nil {
				return err
			}
		}
	}
	for {
		frame, err := stream.Recv()
		if err != nil {
			return err
		}
		fmt.Printf("%s%s", frame.GetStdout(), frame.GetResult().GetMessage())
	}
}

// deaf is a connection whose reading side stands still.
type deaf struct{ net.Conn }

// Read sleeps: a process of which everything waits for ever would be ended by Go's runtime as a deadlock.
func (deaf) Read([]byte) (int, error) {
	for {
		time.Sleep(time.Hour)
	}
}
