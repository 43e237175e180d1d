package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// session is what an attached call needs: the service, this process's streams, the terminal's size if any.
type session struct {
	service *api.Client
	streams api.Streams
	size    *api.Resize
}

// attach connects this process's input, output, signals and, if tty, its terminal to a call, and ends as the
// call's command did. The terminal is as before when it returns.
func attach(ctx context.Context, c *cli.Command, tty bool, call func(context.Context, session) (int, error)) error {
	service, err := dial(ctx, c)
	if err != nil {
		return err
	}
	defer service.Close()
	ctx, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)

	s := session{service: service, streams: api.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}}
	signals, release := forwardSignals(func() {
		hangUp(errors.New("given up after three signals"))
	})
	defer release()
	s.streams.Signals = signals
	if tty {
		restore, err := enterTerminal(ctx, &s)
		if err != nil {
			return err
		}
		defer restore()
	}
	return endOf(call(ctx, s))
}

// enterTerminal hands the terminal on stdin over to the call: keys go there unchanged, sizes follow.
func enterTerminal(ctx context.Context, s *session) (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fault.Systemf("preparing the terminal: %w", err)
	}
	s.size = terminalSize(fd)
	s.streams.Resizes = followSize(ctx, fd)
	s.streams.Stderr = carriageReturns{os.Stderr}
	return func() { _ = term.Restore(fd, before) }, nil
}

// terminalSize returns a terminal's size; one that does not know its own has the classic one.
func terminalSize(fd int) *api.Resize {
	columns, rows, err := term.GetSize(fd)
	if err != nil || rows <= 0 || columns <= 0 {
		return &api.Resize{Rows: 24, Columns: 80}
	}
	return &api.Resize{Rows: uint32(rows), Columns: uint32(columns)}
}

// carriageReturns writes the executor's own lines to a raw terminal, which does not go back to the first
// column by itself. The command's output never passes here: with a terminal it has only stdout.
type carriageReturns struct{ w io.Writer }

func (c carriageReturns) Write(p []byte) (int, error) {
	if _, err := c.w.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}
