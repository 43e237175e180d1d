package jobs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/policy/imagepattern"
)

// Prepare makes the sandbox of a job: record, decide, authorise the image, lease its base, make scratch and
// network, start the sandbox. It tells the job's author in a few lines what was decided and how long it took.
// When it fails nothing is left, and the error says whose fault it is.
func (s *Service) Prepare(ctx context.Context, req *api.Prepare, response []byte, log *joblog.Log) error {
	handle, err := gitlab.ParseHandle(req.Handle)
	if err != nil {
		return fault.Systemf("prepare was called with a bad %s: %w", gitlab.HandleVariable, err)
	}
	job, err := gitlab.ParseJobResponse(response)
	if err != nil {
		return fault.Systemf("%w", err)
	}
	if handle.JobID() != job.ID {
		return fault.Systemf("the handle belongs to job %d, the job response to job %d", handle.JobID(), job.ID)
	}
	if job.HasSteps() {
		return fault.WithRemedy(fault.Authorf("the job has run: (CI/CD steps), which this runner cannot run: it has no step-runner"),
			"write the job with script:")
	}
	sess := s.newSession(handle, job)
	if err := s.register(sess); err != nil {
		return err
	}
	defer sess.enter("prepare", req.RunnerPID)()
	facts := policy.Facts{Job: job, RunnerClass: req.RunnerClass}
	if err := s.build(ctx, sess, facts, Record{RunnerDir: req.RunnerDir, RunnerUID: req.RunnerUID}, log); err != nil {
		return err
	}
	warnUnsupported(log, job)
	return nil
}

// build takes a registered session from nothing to a ready sandbox, or back to nothing.
func (s *Service) build(ctx context.Context, sess *session, facts policy.Facts, record Record, log *joblog.Log) (err error) {
	settings := *s.settings.Load()
	sess.grace = settings.GracefulKillTimeout
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A cleanup beside this prepare must not wait for a pull to end.
	stop := context.AfterFunc(sess.ctx, func() { cancel(context.Cause(sess.ctx)) })
	defer stop()
	defer func() {
		close(sess.prepared)
		if err == nil {
			return
		}
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
			// The cause says whose failure it is: a job that is out of time is the author's, as in endedBy.
			err = &fault.Error{Class: fault.ClassOf(cause), Err: fmt.Errorf("preparing was interrupted (%w): %w", cause, err)}
		}
		sess.log.Warn().Err(err).Str("failure_class", fault.ClassOf(err).String()).Msg("prepare failed")
		if endErr := s.end(context.WithoutCancel(ctx), sess, errFailed); endErr != nil {
			sess.log.Error().Err(endErr).Msg("a failed prepare left something for the reaper")
		}
	}()

	record.ID, record.JobID, record.Handle = sess.id, sess.jobID, sess.handle
	record.Executor, record.CreatedUnix = s.instance, sess.created.Unix()
	if err := s.journal.Begin(ctx, record); err != nil {
		return fault.Systemf("recording the job: %w", err)
	}
	if err := failpoint.Hit("prepare/recorded"); err != nil {
		return err
	}
	if err := sess.step("policy", func() error { return s.decide(ctx, sess, settings, facts, log) }); err != nil {
		return err
	}
	spec := isolation.Spec{ID: sess.id, Hostname: hostname(sess), Limits: sess.decision.Limits, Scripts: !facts.Administrator}
	if err := sess.step("image", func() error { return s.lease(ctx, sess, settings, facts, &spec, log) }); err != nil {
		return err
	}
	if err := s.provision(ctx, sess, facts.Job, &spec, log); err != nil {
		return err
	}
	if err := sess.step("sandbox", func() error { return s.start(ctx, sess, spec) }); err != nil {
		return err
	}
	s.announce(sess, log)
	return nil
}

// lease finds out which image the job may use and leases its base, and the helper root's.
func (s *Service) lease(ctx context.Context, sess *session, settings Settings, facts policy.Facts, spec *isolation.Spec, log *joblog.Log) error {
	job := facts.Job
	image, fromAdmin := job.Image.Name, facts.Administrator
	if image == "" {
		image, fromAdmin = settings.Image, true
	}
	if image == "" {
		remedy := "add image: to the job, or image = to the runner's Airlock configuration"
		if facts.Administrator {
			remedy = "name one with --image, or set image in the configuration"
		}
		return fault.WithRemedy(fault.Authorf("no image is named and the runner has no default"), remedy)
	}
	if !fromAdmin {
		if err := checkAllowed("image", sess.decision.AllowedImages, image); err != nil {
			return err
		}
	}
	for _, service := range job.Services {
		if err := checkAllowed("service", sess.decision.AllowedServices, service.Name); err != nil {
			return err
		}
	}
	pullPolicy, err := choosePullPolicy(sess.decision.PullPolicies, job.Image.PullPolicies)
	if err != nil {
		return err
	}
	if err := s.intend(ctx, sess, EffectLease); err != nil {
		return err
	}
	request := BaseRequest{
		Image: image, PullPolicy: pullPolicy, Holder: sess.id,
		Credentials: job.Credentials, Trusted: fromAdmin, Platform: job.Image.Platform(),
	}
	if sess.base, err = s.base(ctx, sess, request, log); err != nil {
		return err
	}
	escalated, err := s.fit(sess, facts, sess.base.Root.Config, log)
	if err != nil {
		return err
	}
	if escalated {
		if sess.base, err = s.base(ctx, sess, request, log); err != nil {
			return err
		}
	}
	spec.Image = sess.base.Root
	if settings.HelperImage == "" {
		return nil
	}
	helper, err := s.base(ctx, sess, BaseRequest{
		Image: settings.HelperImage, PullPolicy: "if-not-present", Holder: sess.id, Trusted: true,
	}, log)
	if err != nil {
		return fault.Systemf("the helper image of this runner: %w", err)
	}
	spec.Helper, sess.helper = &helper.Root, true
	return nil
}

// base leases a base in the form, and for the processor, of the session's runtime.
func (s *Service) base(ctx context.Context, sess *session, request BaseRequest, log *joblog.Log) (Base, error) {
	request.Form, request.Variant = sess.runtime.Needs().Root, Variant(ctx, sess.runtime)
	return s.layers.Base(ctx, request, log)
}

// leastVariant is what every processor runs: of several variants of an image the one for any.
const leastVariant = "v1"

// Variant returns the processor variant that images for a runtime are chosen by; empty is the host's own. A runtime that
// cannot tell now says so again, as an error, when a sandbox is to be made.
func Variant(ctx context.Context, runtime isolation.Runtime) string {
	emulator, ok := runtime.(isolation.Emulator)
	if !ok {
		return ""
	}
	variant, err := emulator.ProcessorVariant(ctx)
	if err != nil {
		return leastVariant
	}
	return variant
}

// provision makes scratch and network side by side: neither needs the other, and the job waits for both.
func (s *Service) provision(ctx context.Context, sess *session, job *gitlab.JobResponse, spec *isolation.Spec, log *joblog.Log) error {
	for _, effect := range []Effect{EffectScratch, EffectNetwork} {
		if err := s.intend(ctx, sess, effect); err != nil {
			return err
		}
	}
	needs := sess.runtime.Needs()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return sess.step("scratch", func() error {
			return log.While("Making the sandbox's disk", func() error { return s.makeScratch(ctx, sess, job, spec) })
		})
	})
	group.Go(func() error {
		return sess.step("network", func() error {
			network, err := s.networks.Attach(ctx, sess.id, sess.decision.Network, needs.Network)
			if err != nil {
				return fmt.Errorf("attaching the network: %w", err)
			}
			spec.Network, sess.network = network, network
			return failpoint.Hit("prepare/network-made")
		})
	})
	return group.Wait()
}

// makeScratch makes what the sandbox may write to, and opens the cache that it may share.
func (s *Service) makeScratch(ctx context.Context, sess *session, job *gitlab.JobResponse, spec *isolation.Spec) error {
	needs := sess.runtime.Needs()
	scratch, err := s.layers.NewScratch(ctx, ScratchRequest{ID: sess.id, Size: sess.decision.Limits.Scratch, Form: needs.Scratch})
	if err != nil {
		return fmt.Errorf("making the scratch: %w", err)
	}
	spec.ScratchDir, spec.ScratchDisk = scratch.Dir, scratch.Disk
	if scope := cacheScope(sess.decision, job); scope != "" && needs.HostDirectories {
		if spec.CacheDir, err = s.layers.CacheVolume(ctx, scope); err != nil {
			return fmt.Errorf("opening the project's cache: %w", err)
		}
	}
	return failpoint.Hit("prepare/scratch-made")
}

// start makes the sandbox itself.
func (s *Service) start(ctx context.Context, sess *session, spec isolation.Spec) error {
	if err := s.intend(ctx, sess, EffectContainer); err != nil {
		return err
	}
	sess.begun = true
	sandbox, err := sess.runtime.Create(ctx, spec)
	if err != nil {
		return fmt.Errorf("starting the sandbox: %w", err)
	}
	sess.mu.Lock()
	sess.sandbox = sandbox
	sess.mu.Unlock()
	return failpoint.Hit("prepare/sandbox-made")
}

// intend journals an effect before it happens.
func (s *Service) intend(ctx context.Context, sess *session, effect Effect) error {
	if err := s.journal.Intend(ctx, sess.id, effect); err != nil {
		return fault.Systemf("recording the intent to make a %s: %w", effect, err)
	}
	return failpoint.Hit("prepare/intended-" + string(effect))
}

// checkAllowed applies the administrator's patterns to what a job names, an image or a service.
func checkAllowed(what string, patterns []string, image string) error {
	allowed, why := imagepattern.Allows(patterns, image)
	if allowed {
		return nil
	}
	if why != "" {
		why = "; " + why
	}
	if at := strings.LastIndexByte(image, '@'); at >= 0 && !strings.HasPrefix(image[at:], "@sha") {
		image = "***" + image[at:] // somebody wrote a user, and perhaps a password, into it
	}
	return fault.Adminf("the %s %q is not one of the allowed %ss: %s%s", what, image, what, strings.Join(patterns, ", "), why)
}

// choosePullPolicy takes the first policy that the job asks for, if the administrator allows all it names.
func choosePullPolicy(allowed, requested []string) (string, error) {
	if len(requested) == 0 {
		if len(allowed) == 0 {
			return "always", nil
		}
		return allowed[0], nil
	}
	for _, p := range requested {
		if !slices.Contains(allowed, p) {
			return "", fault.Adminf("the pull policy %q of the job's image is not one of the allowed ones: %s", p, strings.Join(allowed, ", "))
		}
	}
	return requested[0], nil
}

// cacheScope names what may share a cache with the job: jobs of the same project, as GitLab attests it, and of
// the same protection. An unprotected job can then never write what a protected one will read. A runtime that takes no
// directory of the host, as a guest does not, gives every job a cache of its own.
func cacheScope(decision policy.Decision, job *gitlab.JobResponse) string {
	if decision.CacheScope != "project" || job.JobInfo.ProjectID == nil || job.GitInfo.Protected == nil {
		return ""
	}
	protection := "unprotected"
	if *job.GitInfo.Protected {
		protection = "protected"
	}
	return fmt.Sprintf("project-%d-%s", *job.JobInfo.ProjectID, protection)
}

// hostname is what scripts print as "Running on ...".
func hostname(sess *session) string {
	if sess.jobID == 0 {
		return sess.id
	}
	return fmt.Sprintf("job-%d-%s", sess.jobID, strings.TrimPrefix(sess.id, "al-")[:6])
}
