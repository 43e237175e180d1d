package gitlabtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// afterScriptTimeout is the runner's default RUNNER_AFTER_SCRIPT_TIMEOUT.
const afterScriptTimeout = 5 * time.Minute

var (
	errCanceled = errors.New("canceled")
	errTimeout  = errors.New("execution took longer than the job's timeout")
)

// buildError is the runner's BuildError: a failure with a reason, which no retry of prepare follows.
type buildError struct {
	reason   string
	exitCode int
	message  string
}

func (e *buildError) Error() string { return e.message }

// run is a job's life, as build.go of runner 19.4 has it.
func (e *Execution) run(ctx context.Context) error {
	ctx, stop := context.WithTimeoutCause(ctx, e.build.Timeout, errTimeout)
	defer stop()
	attempt, err := e.prepare(ctx)
	if err != nil {
		return err
	}
	defer attempt.cleanup()
	scripts, cancel := context.WithCancel(ctx)
	defer cancel()
	finished := make(chan error, 1)
	go func() { finished <- e.scripts(scripts, attempt) }()
	select {
	case err = <-finished:
	case <-ctx.Done():
		select {
		case <-finished:
		case <-time.After(e.caller.FinishTimeout):
			e.say("Timed out waiting for the build to finish")
		}
	}
	if ctx.Err() != nil {
		return causeError(ctx)
	}
	return err
}

// causeError is why a job's context ended, as a failure of the job.
func causeError(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return &buildError{reason: JobTimeout, message: errTimeout.Error()}
	}
	return &buildError{reason: JobCanceled, message: errCanceled.Error()}
}

// prepare makes attempts until one succeeds; each has its own directory, and its own cleanup if it fails.
func (e *Execution) prepare(ctx context.Context) (*attempt, error) {
	var err error
	for i := range e.caller.Attempts {
		if i > 0 {
			e.say("Preparation failed: %v", err)
			e.say("Will be retried in %s ...", e.caller.RetryInterval)
			select {
			case <-time.After(e.caller.RetryInterval):
			case <-ctx.Done():
				return nil, causeError(ctx)
			}
		}
		var a *attempt
		if a, err = e.newAttempt(); err != nil {
			return nil, err
		}
		if err = a.prepare(ctx); err == nil {
			return a, nil
		}
		a.cleanup()
		var final *buildError
		switch {
		case errors.As(err, &final):
			return nil, err
		case ctx.Err() != nil:
			return nil, causeError(ctx)
		}
	}
	return nil, err
}

// scripts runs all stages in order.
func (e *Execution) scripts(ctx context.Context, a *attempt) error {
	if err := a.stage(ctx, "prepare_script"); err != nil {
		return fmt.Errorf("prepare environment: %w", err) // and no other stage
	}
	err := e.sources(ctx, a)
	if err == nil {
		err = e.userScripts(ctx, a)
	}
	suffix, cacheSuffix := "_on_success", ""
	if err != nil {
		suffix, cacheSuffix = "_on_failure", "_on_failure"
	}
	archive := a.stage(ctx, "archive_cache"+cacheSuffix)
	upload := a.stage(ctx, "upload_artifacts"+suffix)
	if err == nil {
		err = archive
	}
	if err == nil {
		err = upload
	}
	if failure := a.stage(ctx, "cleanup_file_variables"); failure != nil {
		e.say("Error while executing file based variables removal script: %v", failure)
	}
	return err
}

// sources runs the stages before the author's, each as often as the job's variables allow.
func (e *Execution) sources(ctx context.Context, a *attempt) error {
	err := e.repeat("GET_SOURCES_ATTEMPTS", func(try int) error {
		if try == 1 {
			if err := a.stage(ctx, "clear_worktree"); err != nil {
				return err
			}
		}
		return a.stage(ctx, "get_sources")
	})
	if err == nil {
		err = e.repeat("RESTORE_CACHE_ATTEMPTS", func(int) error { return a.stage(ctx, "restore_cache") })
	}
	if err == nil {
		err = e.repeat("ARTIFACT_DOWNLOAD_ATTEMPTS", func(int) error { return a.stage(ctx, "download_artifacts") })
	}
	return err
}

// repeat calls f until it succeeds, at most as often as the variable says: 1 to 10 times.
func (e *Execution) repeat(variable string, f func(try int) error) error {
	attempts, _ := strconv.Atoi(e.build.vars().get(variable)) // absent: 0
	var err error
	for try := range max(1, min(10, attempts)) {
		if err = f(try); err == nil {
			return nil
		}
	}
	return err
}

// userScripts runs the author's stages. A cancel from now on ends only them.
func (e *Execution) userScripts(ctx context.Context, a *attempt) error {
	script, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e.setCancel(cancel)
	err := a.stage(script, stageBuild)
	if err == nil {
		err = a.stage(script, stageRelease)
	}
	if ctx.Err() == nil && script.Err() != nil {
		err = &buildError{reason: JobCanceled, message: errCanceled.Error()}
		e.say("script canceled externally (UI, API)")
	}
	e.build.set("CI_JOB_STATUS", jobStatus(err))
	after, stop := context.WithTimeoutCause(ctx, afterScriptTimeout, errTimeout)
	defer stop()
	if failure := a.stage(after, stageAfter); failure != nil {
		e.say("after_script failed, but job will continue unaffected: %v", failure)
	}
	return err
}

func jobStatus(err error) string {
	var failure *buildError
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &failure) && failure.reason == JobCanceled:
		return "canceled"
	default:
		return "failed"
	}
}

// finish turns what run returned into the result.
func (e *Execution) finish(err error) {
	r := &e.result
	var failure *buildError
	switch {
	case err == nil:
		r.Success = true
		e.say(successMessage)
	case errors.As(err, &failure):
		r.Reason, r.ExitCode = failure.reason, failure.exitCode
		e.say("ERROR: Job failed: %v", err)
	default:
		r.Reason = SystemFailure
		e.say("ERROR: Job failed (system failure): %v", err)
	}
	r.Err = err
	r.Log = e.log.String()
	r.CleanupStdout, r.CleanupStderr = e.cleanupStdout.String(), e.cleanupStderr.String()
}

// say writes a line of the runner's own to the job log.
func (e *Execution) say(format string, args ...any) {
	_, _ = fmt.Fprintf(&e.log, format+"\n", args...)
}
