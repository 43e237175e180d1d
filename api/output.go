package api

import (
	"encoding/json"
	"io"
	"sync"

	"github.com/airlock-ci/airlock/internal/frame"
)

// output sends what a call writes, and its result. Sending waits for as long as the caller is slow, and fails once it has
// gone or has its result.
type output struct {
	mu    sync.Mutex // frames are whole, whichever goroutine sends them
	to    io.Writer
	buf   []byte
	ended bool
}

func newOutput(to io.Writer) *output { return &output{to: to} }

// end sends the result; nothing follows it. A caller that has gone needs none.
func (o *output) end(r result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	o.ended = true
	const most = MaxChunk / 8 // of a message: JSON may need six bytes for one
	if r.Failure != nil && len(r.Failure.Message) > most {
		r.Failure.Message = r.Failure.Message[:most]
	}
	payload, err := json.Marshal(r)
	if err == nil {
		_ = frame.Write(o.to, frameResult, payload)
	}
}

// stream returns a writer for frames of one type.
func (o *output) stream(typ frame.Type) io.Writer { return &outputStream{o, typ} }

type outputStream struct {
	output *output
	typ    frame.Type
}

// Write sends p in chunks. Nothing of p is kept.
func (s *outputStream) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), MaxChunk)
		if err := s.output.send(s.typ, p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

func (o *output) send(typ frame.Type, chunk []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return errEnded
	}
	if o.buf == nil {
		o.buf = make([]byte, frame.HeaderLength+MaxChunk)
	}
	copy(o.buf[frame.HeaderLength:], chunk)
	if _, err := o.to.Write(frame.Put(o.buf, typ, len(chunk))); err != nil {
		return ErrCallerGone
	}
	return nil
}
