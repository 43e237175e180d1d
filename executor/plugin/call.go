package plugin

import (
	"context"
	"fmt"
	"io"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
)

// MaxScript is the largest script of a stage that is accepted, in bytes. GitLab Runner's own scripts are tens
// of kilobytes; the bound protects the executor, which holds a script in memory.
const MaxScript = 64 << 20

// Call serves one call: an opening frame, the caller's input and signals, the backend's output, and exactly
// one result, whatever the backend does.
func (s *service) Call(stream executorpb.Executor_CallServer) error {
	open, err := stream.Recv()
	if err != nil {
		return err
	}
	out := &outputs{stream: stream}
	ctx, finish, err := s.begin(stream.Context())
	if err != nil {
		return out.end(wire.FailureResult(err))
	}
	defer finish()
	switch id := callID(open); {
	case open.GetResume() != nil:
		return s.resume(ctx, open.GetResume(), stream)
	case id != "":
		return s.callResumable(ctx, id, open, stream)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errCallEnded)
	in := newInputs(ctx, open, cancel)
	go in.receive(stream.Recv)
	return out.end(s.answer(ctx, open, in, out))
}

// answer does what the opening frame asks for and returns its result.
func (s *service) answer(ctx context.Context, open *api.ClientFrame, in *inputs, out frameSink) (result *api.Result) {
	defer in.close()
	defer func() {
		if p := recover(); p != nil {
			result = wire.FailureResult(panicError(s.log, fmt.Sprintf("%T", open.GetKind()), p))
		}
	}()
	status, err := s.perform(ctx, open, in, out)
	if cause := in.violation(); cause != nil {
		err = cause // what the backend made of the cancelled context tells nobody anything
	}
	if err != nil {
		return wire.FailureResult(err)
	}
	return &api.Result{Ok: true, ExitCode: status}
}

// perform is the table from opening frames to the backend's methods.
func (s *service) perform(ctx context.Context, open *api.ClientFrame, in *inputs, out frameSink) (int32, error) {
	stdout, stderr := stdout(out), stderr(out)
	streams := api.Streams{
		Stdin: in, Stdout: stdout, Stderr: stderr, Signals: in.signals, Resizes: in.resizes,
	}
	switch kind := open.GetKind().(type) {
	case *api.ClientFrame_Prepare:
		response, err := in.readAll(open)
		if err != nil {
			return 0, err
		}
		return 0, s.backend.Prepare(ctx, kind.Prepare, response, stdout)
	case *api.ClientFrame_Run:
		script, err := in.readAll(open)
		if err != nil {
			return 0, err
		}
		streams.Stdin = nil
		return s.backend.Run(ctx, kind.Run, script, streams)
	case *api.ClientFrame_Cleanup:
		return 0, s.backend.Cleanup(ctx, kind.Cleanup)
	case *api.ClientFrame_Sandbox:
		return s.backend.Sandbox(ctx, kind.Sandbox, streams)
	case *api.ClientFrame_Shell:
		return s.backend.Shell(ctx, kind.Shell, streams)
	case *api.ClientFrame_Pull:
		return 0, s.backend.PullImage(ctx, kind.Pull, stdout)
	case *api.ClientFrame_Import:
		return 0, s.backend.ImportImage(ctx, kind.Import, in, stdout)
	default:
		return 0, fault.Systemf("a call was opened with %T, which opens none", open.GetKind())
	}
}

// readAll returns the whole input of a prepare or run, of at most the size that is accepted.
func (in *inputs) readAll(open *api.ClientFrame) ([]byte, error) {
	what, limit := "the script", int64(MaxScript)
	if open.GetPrepare() != nil {
		what, limit = "the job response", gitlab.MaxJobResponse
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fault.Systemf("receiving %s: %w", what, err)
	}
	if int64(len(data)) > limit {
		return nil, fault.Authorf("%s is larger than %d MiB", what, limit>>20)
	}
	return data, nil
}
