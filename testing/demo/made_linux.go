package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/leakcheck"
	"github.com/airlock-ci/airlock/testing/system"
)

// made is what jobs are run with. It is kept between demonstrations, except for programs that are built here.
type made struct {
	// bin is the directory of Airlock's programs.
	bin string
	// git is the first job's helper image, helper that of the others, with gitlab-runner; job is the image of all jobs.
	git, helper, job string
	// runner is the program gitlab-runner.
	runner string
	// marks name, for the leak check, what is started.
	marks *leakcheck.Marks
}

// prepare makes what the first job needs.
func (m *made) prepare(ctx context.Context, dir, bin string, p *page) (err error) {
	m.bin, err = filepath.Abs(bin)
	if bin == "" {
		m.bin = filepath.Join(dir, "bin")
		err = system.Build(ctx, m.bin)
	}
	if err != nil {
		return err
	}
	if m.git, err = images.Git(ctx); err != nil {
		return err
	}
	if m.job, err = images.Busybox(ctx); err != nil {
		return err
	}
	p.table([][]string{
		{"Airlock's programs", m.bin},
		{"helper image of the first job (git, git-lfs)", m.git},
		{"job image (busybox)", m.job},
	})
	return nil
}

// rest is what the other jobs need, made side by side in the background.
type rest struct {
	stop     context.CancelFunc
	machines *waited[struct{}]
	programs *waited[programs]
}

type programs struct{ runner, helper string }

// begin begins to make the rest. The caller calls end.
func (m *made) begin(ctx context.Context) *rest {
	ctx, stop := context.WithCancel(ctx)
	return &rest{
		stop: stop,
		machines: begin("QEMU and a kernel for virtual machines, from Debian", "half a minute", func() (struct{}, error) {
			root, err := system.ModuleRoot()
			if err != nil {
				return struct{}{}, err
			}
			out, err := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", root, "machine-packages").CombinedOutput()
			if err != nil {
				err = fmt.Errorf("make machine-packages: %w\n%s", err, out)
			}
			return struct{}{}, err
		}),
		programs: begin("GitLab Runner, which is compiled", "2 to 5 minutes", func() (made programs, err error) {
			if made.runner, err = gitlabtest.BuildRunner(ctx); err != nil {
				return made, err
			}
			made.helper, err = images.Helper(ctx)
			return made, err
		}),
	}
}

// wait returns when the rest is there.
func (r *rest) wait(m *made, p *page) error {
	if _, err := r.machines.wait(p); err != nil {
		return err
	}
	got, err := r.programs.wait(p)
	if err != nil {
		return err
	}
	m.runner, m.helper = got.runner, got.helper
	p.table([][]string{
		{"gitlab-runner " + gitlabtest.RunnerVersion, m.runner},
		{"helper image (git, git-lfs, gitlab-runner)", m.helper},
	})
	return nil
}

// end gives up what is not made yet, and returns when nothing of it runs.
func (r *rest) end() {
	r.stop()
	<-r.machines.done
	<-r.programs.done
}

// waited is something that is made in the background.
type waited[T any] struct {
	what, usually string
	done          chan struct{}
	result        T
	err           error
}

func begin[T any](what, usually string, do func() (T, error)) *waited[T] {
	w := &waited[T]{what: what, usually: usually, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.result, w.err = do()
	}()
	return w
}

// wait returns the result; if it takes longer, the page says what is waited for.
func (w *waited[T]) wait(p *page) (T, error) {
	select {
	case <-w.done:
	default:
		p.say("Waiting for %s: usually %s, once per machine...", w.what, w.usually)
		<-w.done
	}
	return w.result, w.err
}
