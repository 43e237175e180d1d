package plugin

import (
	"io"
	"sync"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
)

// outputs sends a call's output and result. Its writers may be used at once; they block while the caller is
// slow and fail once it has gone or has its result.
type outputs struct {
	mu     sync.Mutex // a gRPC stream takes one sender at a time
	stream executorpb.Executor_CallServer
	ended  bool
}

func (o *outputs) stdout() io.Writer {
	return &output{to: o, frame: func(p []byte) *api.ServerFrame {
		return &api.ServerFrame{Kind: &api.ServerFrame_Stdout{Stdout: p}}
	}}
}

func (o *outputs) stderr() io.Writer {
	return &output{to: o, frame: func(p []byte) *api.ServerFrame {
		return &api.ServerFrame{Kind: &api.ServerFrame_Stderr{Stderr: p}}
	}}
}

// end sends the result; nothing follows it.
func (o *outputs) end(result *api.Result) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	return o.stream.Send(&api.ServerFrame{Kind: &api.ServerFrame_Result{Result: result}})
}

func (o *outputs) send(frame *api.ServerFrame) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return errCallEnded
	}
	if err := o.stream.Send(frame); err != nil {
		return ErrCallerGone
	}
	return nil
}

// output is one of the two streams.
type output struct {
	to    *outputs
	frame func([]byte) *api.ServerFrame
}

// Write implements io.Writer. The data is encoded before it returns, so p is the caller's again.
func (w *output) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		chunk := p[:min(len(p), api.MaxChunk)]
		if err := w.to.send(w.frame(chunk)); err != nil {
			return written, err
		}
		written += len(chunk)
		p = p[len(chunk):]
	}
	return written, nil
}
