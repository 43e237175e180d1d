package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Run executes one stage's script in the job's sandbox and returns its status. The runner's own stages run in
// the helper root, the author's in the image. An error means that the status is not known, or that the
// sandbox ended under the stage.
func (s *Service) Run(ctx context.Context, req *api.Run, script []byte, streams api.Streams) (int32, error) {
	handle, err := gitlab.ParseHandle(req.Handle)
	if err != nil {
		return 0, fault.Systemf("run was called with a bad %s: %w", gitlab.HandleVariable, err)
	}
	sess := s.byHandle(handle)
	if sess == nil {
		return 0, fault.Systemf("job %d has no sandbox: it was cleaned up, or the executor has restarted since it was prepared", handle.JobID())
	}
	defer sess.enter(req.Stage, req.RunnerPID)()
	sess.log.Debug().Str("stage", req.Stage).Int("script_bytes", len(script)).Msg("stage starts")
	exit, err := s.execute(ctx, sess, isolation.ProcessSpec{
		Script: nonNil(script),
		Shell:  req.Shell,
		Helper: gitlab.IsRunnersStage(req.Stage),
		Dir:    sess.dir,
		Stdout: streams.Stdout, Stderr: streams.Stderr,
	}, streams)
	if err != nil {
		sess.log.Warn().Err(err).Str("stage", req.Stage).Msg("stage failed")
		return 0, err
	}
	sess.log.Info().Str("stage", req.Stage).Int("status", exit.Code).Bool("oom", exit.OOM).Msg("stage ended")
	if err := failpoint.Hit("run/stage-ended"); err != nil {
		return 0, err
	}
	return int32(exit.Code), nil
}

// execute runs one process in a session's sandbox, from its start until it and its descendants are gone. It
// ends them when ctx ends (the driver vanished), when the session ends, or when a signal asks for it.
func (s *Service) execute(ctx context.Context, sess *session, spec isolation.ProcessSpec, streams api.Streams) (isolation.Exit, error) {
	sandbox, err := sess.usable()
	if err != nil {
		return isolation.Exit{}, err
	}
	process, err := sandbox.Start(ctx, spec)
	if err != nil {
		return isolation.Exit{}, sess.explain(err)
	}
	if err := failpoint.Hit("run/stage-started"); err != nil {
		return isolation.Exit{}, err
	}
	ended := make(chan struct{})
	steered := make(chan bool)
	go func() { steered <- sess.steer(ctx, process, streams, ended) }()
	exit, err := process.Wait()
	close(ended)
	if forced := <-steered; forced {
		fmt.Fprintf(streams.Stderr, "airlock: killed %s after SIGTERM, which it ignored or was too slow to obey (graceful_kill_timeout)\n", sess.grace)
	}
	if err != nil {
		return exit, sess.explain(err)
	}
	if exit.OOM {
		fmt.Fprintf(streams.Stderr, "airlock: the memory limit of %s was reached, and the kernel ended a process of this job for it\n",
			bytesize.Format(sess.decision.Limits.Memory))
	}
	return exit, nil
}

// usable returns the session's sandbox if it may still be used.
func (sess *session) usable() (isolation.Sandbox, error) {
	select {
	case <-sess.prepared:
	default:
		return nil, fault.Systemf("the job's sandbox is not ready yet")
	}
	if sess.ctx.Err() != nil {
		return nil, sess.endedBy("the job's sandbox is gone")
	}
	return sess.sandbox, nil
}

// explain says why a sandbox ended under a call: by the job's end, or by its own fault.
func (sess *session) explain(err error) error {
	if sess.ctx.Err() != nil {
		return sess.endedBy("the stage was ended")
	}
	var classified *fault.Error
	if errors.As(err, &classified) {
		return err
	}
	if errors.Is(err, isolation.ErrSandboxGone) {
		return fault.Systemf("the sandbox ended by itself: %w", err)
	}
	return err
}

// endedBy says what the session's end did to a call. The cause may say whose failure it is; else it is the system's.
func (sess *session) endedBy(what string) error {
	cause := context.Cause(sess.ctx)
	return &fault.Error{Class: fault.ClassOf(cause), Err: fmt.Errorf("%s: %w", what, cause)}
}

// nonNil keeps an empty script a script.
func nonNil(script []byte) []byte {
	if script == nil {
		return []byte{}
	}
	return script
}
