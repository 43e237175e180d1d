package plugin

import (
	"io"
	"sync"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
)

// frameSink takes the output of one call; it may be used at once by several.
type frameSink interface {
	// send takes one frame. It may wait for as long as the caller is slow. The frame remains the sender's.
	send(frame *api.ServerFrame) error
}

func stdout(to frameSink) io.Writer {
	return &output{to: to, frame: func(p []byte) *api.ServerFrame {
		return &api.ServerFrame{Kind: &api.ServerFrame_Stdout{Stdout: p}}
	}}
}

func stderr(to frameSink) io.Writer {
	return &output{to: to, frame: func(p []byte) *api.ServerFrame {
		return &api.ServerFrame{Kind: &api.ServerFrame_Stderr{Stderr: p}}
	}}
}

// output is one of the two streams.
type output struct {
	to    frameSink
	frame func([]byte) *api.ServerFrame
}

// Write implements io.Writer. Nothing of p is kept.
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

// outputs sends the output and result of a call that lives and dies with its stream. Sending blocks while the
// caller is slow and fails once it has gone or has its result.
type outputs struct {
	mu     sync.Mutex // a gRPC stream takes one sender at a time
	stream executorpb.Executor_CallServer
	ended  bool
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
