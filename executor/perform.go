package executor

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
)

// handle does what a caller asks for, whatever the backend does. It is an api.Handler.
func (c *caller) handle(ctx context.Context, call *api.Call) (status int, err error) {
	started, s := time.Now(), c.server
	defer func() { s.metrics.observe(call.Op, err, resultLabel(ctx, err), time.Since(started)) }()
	if err := c.peer.require(rightsFor(call.Op), "the call "+string(call.Op)); err != nil {
		return 0, err
	}
	if call.Op == api.OpCleanup {
		// Nobody calls cleanup again: once asked for it is done, though its driver may be killed meanwhile.
		ctx = context.WithoutCancel(ctx)
	}
	// A reader of the log keeps no executor from being replaced.
	ctx, finish, err := s.Begin(ctx, call.Op != api.OpEvents)
	if err != nil {
		return 0, err
	}
	defer finish()
	defer func() {
		if p := recover(); p != nil {
			err = control.Panicked(s.log, string(call.Op), p)
		}
	}()
	return c.perform(ctx, call)
}

func resultLabel(ctx context.Context, err error) string {
	switch {
	case errors.Is(context.Cause(ctx), api.ErrCallerGone):
		return "gone"
	case err != nil:
		return fault.ClassOf(err).String()
	default:
		return "ok"
	}
}

// rightsFor returns what a caller must be to make a call.
func rightsFor(op api.Op) rights {
	switch op {
	case api.OpPrepare, api.OpRun, api.OpCleanup:
		return rightsJobs
	default:
		return rightsAll
	}
}

// perform is the table from calls to the backend's methods.
func (c *caller) perform(ctx context.Context, call *api.Call) (int, error) {
	b := c.server.backend
	switch call.Op {
	case api.OpPrepare:
		return does(call, func(req *api.Prepare) error { return c.prepare(ctx, req, call) })
	case api.OpRun:
		return runs(call, func(req *api.Run) (int32, error) { return c.run(ctx, req, call) })
	case api.OpCleanup:
		return does(call, func(req *api.Cleanup) error { return b.Cleanup(ctx, req) })
	case api.OpSandbox:
		return runs(call, func(req *api.Sandbox) (int32, error) { return b.Sandbox(ctx, req, call.Streams) })
	case api.OpShell:
		return runs(call, func(req *api.Shell) (int32, error) { return b.Shell(ctx, req, call.Streams) })
	case api.OpPull:
		return does(call, func(req *api.Pull) error { return b.PullImage(ctx, req, call.Stdout) })
	case api.OpImport:
		return does(call, func(req *api.Import) error { return b.ImportImage(ctx, req, call.Stdin, call.Stdout) })
	case api.OpEvents:
		return does(call, func(req *api.Events) error {
			return b.Events(ctx, req.Job, req.Follow, func(json []byte) error {
				_, err := call.Stdout.Write(slices.Concat(json, []byte("\n"))) // the line is the log's
				return err
			})
		})
	default:
		return 0, c.administer(ctx, call)
	}
}

// does decodes the body of a call that has no status, and runs decodes that of one that has.
func does[M any](call *api.Call, do func(*M) error) (int, error) {
	return runs(call, func(message *M) (int32, error) { return 0, do(message) })
}

func runs[M any](call *api.Call, do func(*M) (int32, error)) (int, error) {
	message := new(M)
	if err := call.Decode(message); err != nil {
		return 0, err
	}
	status, err := do(message)
	return int(status), err
}

func (c *caller) prepare(ctx context.Context, req *api.Prepare, call *api.Call) error {
	req.RunnerUID = c.peer.uid
	if err := c.server.settleClass(c.entrance, req); err != nil {
		return err
	}
	response, release, err := c.readAll(call.Stdin, "the job response", gitlab.MaxJobResponse)
	defer release()
	if err != nil {
		return err
	}
	return c.server.backend.Prepare(ctx, req, response, call.Stdout)
}

func (c *caller) run(ctx context.Context, req *api.Run, call *api.Call) (int32, error) {
	script, release, err := c.readAll(call.Stdin, "the script", api.MaxScript)
	defer release()
	if err != nil {
		return 0, err
	}
	call.Stdin = nil
	return c.server.backend.Run(ctx, req, script, call.Streams)
}

// readAll returns the whole input of a prepare or run, of at most limit bytes, which count for the caller's user until
// release.
func (c *caller) readAll(in io.Reader, what string, limit int) (data []byte, release func(), err error) {
	release = func() { c.server.users.take(c.peer.name, -len(data)) }
	buf := make([]byte, api.MaxChunk)
	for {
		n, err := in.Read(buf)
		switch {
		case len(data)+n > limit:
			return data, release, fault.Authorf("%s is larger than %d MiB", what, limit>>20)
		case !c.server.users.take(c.peer.name, n):
			return data, release, api.NotBegun(fault.Systemf("the calls of %s hold more than %d MiB of input", c.peer.name, maxInput>>20))
		}
		data = append(data, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return data, release, nil
		}
		if err != nil {
			return data, release, fault.Systemf("receiving %s: %w", what, err)
		}
	}
}
