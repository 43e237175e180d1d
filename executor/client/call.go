package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/flow"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Sandbox makes a sandbox, runs its command and returns the command's status, 0 to 255. Cancelling ctx ends
// the connection, and by that the sandbox.
func (c *Client) Sandbox(ctx context.Context, sandbox *api.Sandbox, streams api.Streams) (int, error) {
	return c.call(ctx, &api.ClientFrame{Kind: &api.ClientFrame_Sandbox{Sandbox: sandbox}}, streams)
}

// Shell runs a command, or the shell there is, in a living sandbox and returns its status, 0 to 255.
func (c *Client) Shell(ctx context.Context, shell *api.Shell, streams api.Streams) (int, error) {
	return c.call(ctx, &api.ClientFrame{Kind: &api.ClientFrame_Shell{Shell: shell}}, streams)
}

// PullImage pulls an image into the cache.
func (c *Client) PullImage(ctx context.Context, image string, progress io.Writer) error {
	open := &api.ClientFrame{Kind: &api.ClientFrame_Pull{Pull: &api.PullImage{Image: image}}}
	_, err := c.call(ctx, open, api.Streams{Stdout: progress, Stderr: progress})
	return err
}

// ImportImage stores an image in tar, a docker-archive or an OCI layout, maybe compressed: see api.ImportImage.
func (c *Client) ImportImage(ctx context.Context, image *api.ImportImage, tar io.Reader, progress io.Writer) error {
	open := &api.ClientFrame{Kind: &api.ClientFrame_Import{Import: image}}
	_, err := c.call(ctx, open, api.Streams{Stdin: tar, Stdout: progress, Stderr: progress})
	return err
}

// Events calls emit with each kept log line of the executor, then, if follow, with each new one until ctx
// ends. job, when not empty, is the job id or sandbox id that they are about.
func (c *Client) Events(ctx context.Context, job string, follow bool, emit func(json []byte) error) error {
	defer c.Close()
	stream, err := c.host.Events(ctx, &api.EventsRequest{Job: job, Follow: follow})
	if err != nil {
		return c.wireError(ctx, err)
	}
	var emitErr error
	err = flow.Events(c.paced, stream.Recv).Each(func(e *api.Event) error {
		emitErr = emit(e.GetJson())
		return emitErr
	})
	switch {
	case emitErr != nil:
		return emitErr
	case err != nil:
		return c.wireError(ctx, err)
	default:
		return nil
	}
}

// errFinished is the cause with which a call's helpers end once the call has its result.
var errFinished = errors.New("the call has ended")

// call makes one Call: it opens it, forwards input, signals and sizes, and writes output until the result is
// there. A Read of Stdin that is pending then is left behind; nobody can interrupt it.
func (c *Client) call(ctx context.Context, open *api.ClientFrame, streams api.Streams) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errFinished)
	defer c.Close() // also ends helpers that are blocked in a send

	stream, err := c.host.Call(ctx)
	if err != nil {
		return 0, c.wireError(ctx, err)
	}
	if err := stream.Send(open); err != nil {
		return 0, c.wireError(ctx, err)
	}
	go sendInput(stream, streams.Stdin, cancel)
	go sendControl(ctx, stream, streams)

	var result *api.Result
	err = flow.Frames(c.paced, stream.Recv).Each(func(frame *api.ServerFrame) error {
		switch kind := frame.GetKind().(type) {
		case *api.ServerFrame_Stdout:
			return writeOutput(streams.Stdout, kind.Stdout)
		case *api.ServerFrame_Stderr:
			return writeOutput(streams.Stderr, kind.Stderr)
		case *api.ServerFrame_Result:
			result = kind.Result
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, c.wireError(ctx, err)
	case result == nil:
		return 0, fault.Systemf("the Airlock service at %s ended the call without a result", c.socket)
	}
	return int(result.GetExitCode()), wire.ResultError(result)
}

func writeOutput(w io.Writer, data []byte) error {
	if _, err := w.Write(data); err != nil {
		return fault.Systemf("writing the output: %w", err)
	}
	return nil
}

// sendInput sends all of stdin, then its end. A stdin that fails fails the call: half an input must not pass
// for a whole one. When the service no longer takes input, the call's result tells why.
func sendInput(stream hostpb.Host_CallClient, stdin io.Reader, fail context.CancelCauseFunc) {
	if stdin != nil {
		buf := make([]byte, api.MaxChunk)
		for {
			n, err := stdin.Read(buf)
			if n > 0 && stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_Data{Data: buf[:n]}}) != nil {
				return
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				fail(fmt.Errorf("reading the input: %w", err))
				return
			}
		}
	}
	_ = stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_End{End: true}})
}

// sendControl forwards signals and terminal sizes as they happen, until ctx ends.
func sendControl(ctx context.Context, stream hostpb.Host_CallClient, streams api.Streams) {
	for {
		var frame *api.ClientFrame
		select {
		case <-ctx.Done():
			return
		case signal, ok := <-streams.Signals:
			if !ok {
				streams.Signals = nil
				continue
			}
			frame = &api.ClientFrame{Kind: &api.ClientFrame_Signal{Signal: uint32(signal)}}
		case size, ok := <-streams.Resizes:
			if !ok {
				streams.Resizes = nil
				continue
			}
			frame = &api.ClientFrame{Kind: &api.ClientFrame_Resize{Resize: size}}
		}
		if stream.Send(frame) != nil {
			return
		}
	}
}
