package driver

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/flow"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// call makes one Call of the host: it sends the opening frame and the data, then signals as they come, and
// copies output until the result is there. When the connection breaks, because the host restarts, it goes on over
// another one (see exchange).
func (d *Driver) call(ctx context.Context, name string, opening *api.ClientFrame, data []byte) (*api.Result, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := failpoint.Hit("driver/" + name + "-connected"); err != nil {
		conn.close()
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := newExchange(d, name, opening, data, conn, cancel)
	defer x.close()
	output := &output{stdout: d.Stdout, stderr: d.Stderr, done: x.consumed, broken: make(chan struct{})}
	go x.steer(ctx, output.broken)
	result, err := output.copy(flow.Frames(conn.paced, func() (*api.ServerFrame, error) { return x.receive(ctx) }))
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

// output is where a call's output goes. Once a write failed, nobody reads any more: the rest is discarded and
// broken is closed, so that the stage is ended.
type output struct {
	stdout, stderr io.Writer
	done           func(*api.ServerFrame) // is called with each frame that was dealt with
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
		o.done(frame)
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
