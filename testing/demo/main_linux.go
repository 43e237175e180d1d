// Command demo shows Airlock at work on this machine: a job's whole way from a GitLab Runner to a fresh sandbox
// and back, and that nothing of it is left afterwards. It owns the story and its printing; the parts are those
// of the end-to-end tests. It needs Linux and root. `make demo` runs it.
//
// It ends with status 0 only when all jobs did what they should and the leak check is empty. An interrupt
// (Ctrl-C) or SIGTERM ends it early, with the same clean-up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/airlock-ci/airlock/testing/leakcheck"
	"github.com/airlock-ci/airlock/testing/system"
)

func main() {
	bin := flag.String("bin", "", "the `directory` of Airlock's four programs; by default they are built for the demonstration")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, &page{w: os.Stdout}); err != nil {
		fmt.Fprintf(os.Stderr, "\nThe demonstration FAILED: %v\n", err)
		os.Exit(1)
	}
}

// run tells the whole story. Whatever happens in its middle, everything is stopped and the leak check is shown.
func run(ctx context.Context, bin string, p *page) error {
	if os.Getuid() != 0 {
		return errors.New("it makes real sandboxes, which needs root: run it as root or through sudo")
	}
	dir, err := ownDirectory()
	defer func() { _ = os.RemoveAll(dir) }()
	if err != nil {
		return err
	}
	p.introduce()

	made := made{marks: &leakcheck.Marks{}}
	if err := p.part("Made beforehand", func() error { return made.prepare(ctx, dir, bin, p) }); err != nil {
		return interrupted(ctx, err)
	}
	options := system.Ledger(made.marks)
	options.Dirs = []string{os.TempDir()}
	before, err := leakcheck.Take(options)
	if err != nil {
		return err
	}
	told := interrupted(ctx, tell(ctx, made, p))
	checked := p.part("What is left over", func() error { return settle(p, before, options) })
	p.durations()
	return errors.Join(told, checked)
}

// tell shows a first job as soon as a container can be made, while what the others need is still being installed and
// compiled, and then the whole story.
func tell(ctx context.Context, m made, p *page) error {
	rest := m.begin(ctx)
	defer rest.end()
	if err := p.part("A first job, in a container", func() error { return first(ctx, m, p) }); err != nil {
		return err
	}
	if err := p.part("What the next jobs need", func() error { return rest.wait(&m, p) }); err != nil {
		return err
	}
	return whole(ctx, m, p)
}

// interrupted says in plain words that a story broke off because someone asked for it.
func interrupted(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("it was interrupted (%w)", context.Cause(ctx))
}

// ownDirectory makes the directory that everything of the demonstration goes to. Its "tmp" is the temporary
// directory of this process and its children, so that the leak check sees every file; the go command has another,
// in which it leaves things when it is interrupted.
func ownDirectory() (string, error) {
	dir, err := os.MkdirTemp("", "al-demo-") // short: socket paths have 107 bytes
	if err != nil {
		return "", err
	}
	for variable, name := range map[string]string{"TMPDIR": "tmp", "GOTMPDIR": "go"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o700), os.Setenv(variable, filepath.Join(dir, name))); err != nil {
			return dir, err
		}
	}
	return dir, nil
}

// settle waits until nothing of the demonstration's is left and prints the comparison; a difference that carries its
// marks is an error, what other programs did meanwhile is not.
func settle(p *page, before leakcheck.Snapshot, o leakcheck.Options) error {
	after, diffs, err := leakcheck.Wait(context.Background(), before, o)
	if err != nil {
		return err
	}
	counting, others := o.Split(diffs)
	leakcheck.Print(p.w, before, after, counting, others)
	if len(counting) > 0 {
		return fmt.Errorf("%d things of this demonstration are still there or missing, %s after everything was stopped",
			len(counting), o.Patience.Round(time.Second))
	}
	p.say("The leak check is empty: nothing of Airlock's is left on this host.")
	return nil
}
