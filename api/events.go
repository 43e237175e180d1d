package api

import (
	"bytes"
	"context"
	"io"
)

// ReadEvents calls emit with each log line of the executor that events asks for, without its line feed. It ends with the
// kept ones, or, if events.Follow, with ctx or with emit's error.
func ReadEvents(ctx context.Context, c *Client, events Events, emit func(json []byte) error) error {
	_, err := c.Call(ctx, OpEvents, events, Streams{Stdout: &lineWriter{emit: emit}, Stderr: io.Discard})
	return err
}

// lineWriter emits what is written to it line by line.
type lineWriter struct {
	emit func(line []byte) error
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, whole := bytes.Cut(w.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		if err := w.emit(line); err != nil {
			return 0, err
		}
		w.rest = rest
	}
}
