package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/failpoint"
	"github.com/airlock-ci/airlock/executor/api/fault"
	"github.com/airlock-ci/airlock/executor/api/flow"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
)

// Signal numbers of the contract, the same on every operating system.
const (
	signalTerminate = 15
	signalKill      = 9
)

// parentInterval is how often the driver looks whether its runner still lives.
const parentInterval = time.Second

// call makes one Call of the host: it sends the opening frame and the data, then signals as they come, and
// copies output until the result is there.
func (d *Driver) call(ctx context.Context, name string, opening *api.ClientFrame, data []byte) (*api.Result, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.close()
	if err := failpoint.Hit("driver/" + name + "-connected"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := conn.host.Call(ctx)
	if err != nil {
		return nil, d.connectionLost(err)
	}
	output := &output{stdout: d.Stdout, stderr: d.Stderr, broken: make(chan struct{})}
	go func() {
		if err := d.send(ctx, name, stream, opening, data, output.broken); err != nil {
			cancel(err)
			conn.close()
		}
	}()
	result, err := output.copy(flow.Frames(conn.paced, stream.Recv))
	switch {
	case context.Cause(ctx) != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, d.connectionLost(err)
	case output.err != nil:
		return nil, fault.Systemf("writing the job's output: %w", output.err)
	}
	return result, failpoint.Hit("driver/" + name + "-result")
}

// send is the sending half of a call. It returns an error when the call cannot go on.
func (d *Driver) send(ctx context.Context, name string, stream hostpb.Host_CallClient, opening *api.ClientFrame, data []byte, broken <-chan struct{}) error {
	if err := sendInput(stream, opening, data); err != nil {
		return nil // the receiving half learns why
	}
	if err := failpoint.Hit("driver/" + name + "-sent"); err != nil {
		return err
	}
	number := uint32(signalTerminate)
	watch := time.NewTicker(parentInterval)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.C:
			if d.Parent > 0 && os.Getppid() != d.Parent {
				return fault.Systemf("the runner that called this driver (process %d) is gone", d.Parent)
			}
			continue
		case <-broken:
			broken, number = nil, signalKill
		case <-d.Signals:
		}
		if err := stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_Signal{Signal: number}}); err != nil {
			return nil
		}
		number = signalKill
	}
}

// sendInput sends the opening frame, the data in chunks, and its end.
func sendInput(stream hostpb.Host_CallClient, opening *api.ClientFrame, data []byte) error {
	if err := stream.Send(opening); err != nil {
		return err
	}
	for rest := bytes.NewBuffer(data); rest.Len() > 0; {
		chunk := &api.ClientFrame{Kind: &api.ClientFrame_Data{Data: rest.Next(api.MaxChunk)}}
		if err := stream.Send(chunk); err != nil {
			return err
		}
	}
	return stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_End{End: true}})
}

// output is where a call's output goes. Once a write failed, nobody reads any more: the rest is discarded and
// broken is closed, so that the stage is ended.
type output struct {
	stdout, stderr io.Writer
	broken         chan struct{}
	err            error
}

// copy writes the frames' output until the result comes.
func (o *output) copy(frames *flow.Queue[*api.ServerFrame]) (result *api.Result, err error) {
	err = frames.Each(func(frame *api.ServerFrame) error {
		switch kind := frame.GetKind().(type) {
		case *api.ServerFrame_Stdout:
			o.write(o.stdout, kind.Stdout)
		case *api.ServerFrame_Stderr:
			o.write(o.stderr, kind.Stderr)
		case *api.ServerFrame_Result:
			result = kind.Result
		}
		return nil
	})
	if err == nil && result == nil {
		err = errors.New("it ended the call without a result")
	}
	return result, err
}

func (o *output) write(w io.Writer, data []byte) {
	if o.err != nil {
		return
	}
	if _, o.err = w.Write(data); o.err != nil {
		close(o.broken)
	}
}

// connectionLost explains an error of the connection in the middle of a call.
func (d *Driver) connectionLost(err error) error {
	return fault.WithRemedy(fault.Systemf("the connection to the Airlock service at %s broke: %w", d.Socket, err),
		fmt.Sprintf("retry the job; if it happens again, see %s", serviceLog))
}
