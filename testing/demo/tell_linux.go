package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

// jobTimeout bounds one job; it takes some ten seconds, and several times that on a slow or busy machine.
const jobTimeout = 5 * time.Minute

// whole starts everything, runs a trusted job twice and an untrusted one, and stops everything.
func whole(ctx context.Context, m made, p *page) (err error) {
	s := &stage{made: m}
	defer func() {
		if err != nil && ctx.Err() == nil {
			p.printed("The service's last log lines", lastLines(s.serviceLog(), 20))
			p.printed("The runner's last log lines", lastLines(s.runnerLog(), 20))
		}
		err = errors.Join(err, p.part("Everything stops", func() error { return s.stop(p) }))
	}()
	if err := p.part("What runs", func() error {
		if err := s.start(ctx); err != nil {
			return err
		}
		s.describe(p)
		p.say("The policy of its administrator:")
		p.quote(policy)
		return nil
	}); err != nil {
		return err
	}
	job := s.job()
	var first gitlabtest.JobRecord
	if err := p.part("A job, while it runs", func() (err error) {
		p.say("Its author wrote:")
		p.quote(yaml(job))
		first, err = s.runWatched(ctx, job, p, "ps")
		return err
	}); err != nil {
		return err
	}
	if err := p.part("The job's log, as GitLab got it", func() error {
		p.quote(readable(first.Trace))
		return nil
	}); err != nil {
		return err
	}
	if err := p.part("The artifact, as GitLab got it", func() error { return showArtifact(first, p) }); err != nil {
		return err
	}
	if err := p.part("The same job once more", func() error {
		p.say("Now the images come from the cache, and the project's cache has the first job's note. From its log:")
		second, err := s.finish(ctx, s.gitlab.Add(job))
		p.quote(linesWith(readable(second.Trace), "Image ", "Sandbox ", "a note "))
		if err == nil && !strings.Contains(second.Trace, fmt.Sprintf("\na note of job %d", first.ID)) {
			err = errors.New("the second job did not find what the first left in the cache")
		}
		return err
	}); err != nil {
		return err
	}
	return p.part("A job that nobody vouches for, with a kernel of its own", func() error { return s.distrust(ctx, first, p) })
}

// templateTimeout bounds the making of a template: up to ten seconds to find out that KVM does not work, then a boot.
const templateTimeout = 6 * time.Minute

// distrust runs an untrusted job, which the policy gives a virtual machine, beside what a trusted one saw.
func (s *stage) distrust(ctx context.Context, trusted gitlabtest.JobRecord, p *page) error {
	p.say(`Now the job of a branch that is not protected. While the others ran, one virtual machine was booted and saved as a
template; those of jobs are cloned from it.`)
	if err := s.airlock.AwaitLog(ctx, templateTimeout, "template made", 1); err != nil {
		return err
	}
	job := s.untrusted()
	p.say("The job's author wrote:")
	p.quote(yaml(job))
	record, err := s.runWatched(ctx, job, p, "uname", "-a")
	if err != nil {
		return err
	}
	p.say("The job's log, as GitLab got it:")
	p.quote(readable(record.Trace))
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	kernels := [][]string{{"this host", strings.TrimSpace(string(host))}, {"the trusted job", kernelOf(trusted)}, {"the untrusted job", kernelOf(record)}}
	p.say("The kernels:")
	p.table(kernels)
	if kernels[0][1] != kernels[1][1] || kernels[2][1] == "" || kernels[2][1] == kernels[0][1] {
		return errors.New("the trusted job should see the host's kernel, the untrusted one its own")
	}
	return nil
}

// kernelOf is the kernel that a job's log tells, or empty.
func kernelOf(record gitlabtest.JobRecord) string {
	_, after, _ := strings.Cut(record.Trace, "\nthe kernel here is ")
	kernel, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(kernel)
}

// finish waits for a job's success.
func (s *stage) finish(ctx context.Context, id int64) (gitlabtest.JobRecord, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, jobTimeout, fmt.Errorf("it did not end within %s", jobTimeout))
	defer cancel()
	record, err := s.gitlab.Wait(ctx, id)
	if err == nil && record.State != "success" {
		err = fmt.Errorf("job %d failed (%s); its log:\n%s", id, record.FailureReason, readable(record.Trace))
	}
	return record, err
}
