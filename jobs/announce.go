package jobs

import (
	"fmt"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
)

// announce tells the job's author what they got: level and why, image and digest, from cache or pulled, limits, and how
// long each step took.
func (s *Service) announce(sess *session, log *joblog.Log) {
	d := sess.decision
	log.Note("Airlock %s: %s, because %s", s.version, describeLevel(d.Level, sess.runtime.Name()), d.Reason)
	source := "from cache"
	if sess.base.Pulled {
		source = "pulled, " + bytesize.Format(sess.base.Bytes)
	}
	log.Note("Image %s, %s (%s)", sess.base.Image, sess.base.Digest, source)
	for _, warning := range sess.base.Warnings {
		log.Warning("%s", warning)
	}
	log.Note("Limits: %s; network %s", describeLimits(d.Limits, d.Timeout), d.Network)
	var steps []string
	for _, step := range sess.steps {
		steps = append(steps, fmt.Sprintf("%s %s", step.Name, round(time.Duration(step.Nanoseconds))))
	}
	log.Note("Sandbox %s ready in %s (%s)", sess.id, round(time.Since(sess.created)), strings.Join(steps, ", "))
	event := sess.log.Info().Str("isolation", d.Level.String()).Str("rule", d.Rule).Str("policy", d.Policy).Str("reason", d.Reason).
		Str("image", sess.base.Image).Str("digest", sess.base.Digest).Bool("pulled", sess.base.Pulled)
	for _, step := range sess.steps {
		event = event.Dur(step.Name+"_ms", time.Duration(step.Nanoseconds))
	}
	event.Dur("ready_ms", time.Since(sess.created)).Msg("sandbox ready")
}

// warnUnsupported says what GitLab would let an author expect: it hands jobs with services: and the like to every runner.
// It quotes no entrypoint: variables are expanded in it.
func warnUnsupported(log *joblog.Log, job *gitlab.JobResponse) {
	if len(job.Services) > 0 {
		log.Warning("services are not started by this runner: %s", strings.Join(job.ServiceNames(), ", "))
	}
	if job.Image.HasEntrypoint() {
		log.Warning("image:entrypoint is not run by this runner: scripts are run by the image's bash or sh alone")
	}
	if user := job.Image.DockerUser(); user != "" {
		log.Warning("image:docker:user is ignored by this runner: the job runs as the image's own USER, not as %q", user)
	}
}

func describeLevel(level isolation.Level, runtime string) string {
	if level == isolation.HypervisorLevel {
		return "hypervisor isolation (own kernel, " + runtime + ")"
	}
	return "process isolation (container sharing the host's kernel, " + runtime + ")"
}

func describeLimits(l isolation.Limits, timeout time.Duration) string {
	var parts []string
	if l.Memory > 0 {
		parts = append(parts, bytesize.Format(l.Memory)+" memory")
	}
	if l.CPUs > 0 {
		parts = append(parts, fmt.Sprintf("%g CPUs", l.CPUs))
	}
	if l.PIDs > 0 {
		parts = append(parts, fmt.Sprintf("%d processes", l.PIDs))
	}
	if l.Scratch > 0 {
		parts = append(parts, bytesize.Format(l.Scratch)+" disk")
	}
	if timeout > 0 {
		parts = append(parts, timeout.String()+" time")
	}
	if len(parts) == 0 {
		parts = append(parts, "none")
	}
	return strings.Join(parts, ", ")
}

// round drops the digits nobody reads.
func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d.Round(100 * time.Nanosecond)
	}
}
