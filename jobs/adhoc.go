package jobs

import (
	"context"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// Sandbox is `airlock run`: a sandbox without GitLab for one command, gone when the command has ended. It
// takes the way of a job, with what the administrator asks for as its facts.
func (s *Service) Sandbox(ctx context.Context, req *api.Sandbox, streams api.Streams) (status int32, err error) {
	facts := policy.Facts{Job: &gitlab.JobResponse{Image: gitlab.Image{Name: req.Image}}, Administrator: true, Network: req.Network}
	if name := req.Isolation; name != "" {
		if facts.Requested, err = isolation.ParseLevel(name); err != nil {
			return 0, fault.Adminf("%w", err)
		}
	}
	sess := s.newSession("", nil)
	if err := s.register(sess); err != nil {
		return 0, err
	}
	defer sess.enter("run", 0)()
	// The command's own output is all that a script expects of `airlock run`: a wait and a warning are worth a word.
	log := joblog.New(streams.Stderr).Only(joblog.Progress | joblog.Warnings)
	if err := s.build(ctx, sess, facts, Record{}, log); err != nil {
		return 0, err
	}
	defer func() {
		if endErr := s.end(context.WithoutCancel(ctx), sess, errFinished); endErr != nil && err == nil {
			err = endErr
		}
	}()
	rows, columns := req.Size.Characters()
	exit, err := s.execute(ctx, sess, isolation.ProcessSpec{
		Args: req.Command, Env: req.Env,
		TTY: req.TTY, Rows: rows, Columns: columns,
		Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
	}, streams)
	return int32(exit.Code), err
}

// Shell runs an interactive command in a living sandbox, beside whatever runs there.
func (s *Service) Shell(ctx context.Context, req *api.Shell, streams api.Streams) (int32, error) {
	sess, err := s.find(req.Job)
	if err != nil {
		return 0, err
	}
	if req.Helper && !sess.helper {
		return 0, fault.Adminf("sandbox %s has no helper root: no helper_image is configured", sess.id)
	}
	sess.log.Info().Bool("helper", req.Helper).Msg("an administrator opens a shell")
	rows, columns := req.Size.Characters()
	exit, err := s.execute(ctx, sess, isolation.ProcessSpec{
		Args: req.Command, Helper: req.Helper, Dir: sess.dir, Interactive: true,
		TTY: req.TTY, Rows: rows, Columns: columns,
		Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
	}, streams)
	return int32(exit.Code), err
}
