package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/system"
)

// bench is what the parts share: the programs, the images, and a running Airlock.
type bench struct {
	rounds int
	dir    string
	// empty and noop are built programs, as Airlock's are built.
	empty, noop string
	// busybox, bash and helper are images' archives.
	busybox, bash, helper string
	airlock               *system.System
	ready                 <-chan ready
	stop                  context.CancelFunc
}

// start builds the programs and the images, and starts an Airlock.
func start(ctx context.Context, n int) (_ *bench, err error) {
	dir, err := os.MkdirTemp("", "airlock-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{rounds: n, dir: dir, empty: filepath.Join(dir, "bin/empty"), noop: filepath.Join(dir, "bin/noop")}
	ctx, b.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	for archive, make := range map[*string]func(context.Context) (string, error){
		&b.busybox: images.Busybox, &b.bash: images.Bash, &b.helper: images.Helper,
	} {
		if *archive, err = make(ctx); err != nil {
			return nil, err
		}
	}
	if b.airlock, err = system.Start(ctx, system.Options{
		Bin: filepath.Join(dir, "bin"),
		// Jobs get what an installation gives them: an image with bash, and a helper root. The rest are defaults.
		Config: fmt.Sprintf("image = %q\nhelper_image = %q\n", "docker-archive:"+b.bash, "docker-archive:"+b.helper),
	}); err != nil {
		return nil, err
	}
	if err := b.asInstalled(ctx); err != nil {
		return nil, err
	}
	if out, err := b.airlock.Airlock("image", "import", images.BusyboxName, b.busybox).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("importing an image: %w: %s", err, out)
	}
	b.ready, err = watchReady(ctx, b.airlock.Socket)
	return b, err
}

func (b *bench) build(ctx context.Context) error {
	if err := system.Build(ctx, filepath.Dir(b.empty)); err != nil {
		return err
	}
	root, err := system.ModuleRoot()
	if err != nil {
		return err
	}
	for _, program := range []string{b.empty, b.noop} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testing/bench/"+filepath.Base(program))
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	return nil
}

// asInstalled takes back what package system sets for tests: a reaper in a hurry and a talkative log.
func (b *bench) asInstalled(ctx context.Context) error {
	if err := b.airlock.Stop(); err != nil {
		return err
	}
	config, err := os.ReadFile(b.airlock.ConfigPath)
	if err != nil {
		return err
	}
	text := strings.NewReplacer("reap_interval = \"2s\"\n", "", "log_level = \"debug\"\n", "").Replace(string(config))
	if err := os.WriteFile(b.airlock.ConfigPath, []byte(text), 0o644); err != nil {
		return err
	}
	return b.airlock.StartHost(ctx)
}

// close ends what start started; it may be called on half a bench.
func (b *bench) close() error {
	b.stop()
	var err error
	if b.airlock != nil {
		err = b.airlock.Close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// caller calls a driver as runner 19.4 does.
func (b *bench) caller(driver string, args ...string) *gitlabtest.Caller {
	return &gitlabtest.Caller{Driver: driver, Args: args, TempDir: b.dir, Attempts: 1}
}

// airlockCaller calls Airlock's driver.
func (b *bench) airlockCaller() *gitlabtest.Caller {
	driver, args := b.airlock.DriverArgs()
	return b.caller(driver, args...)
}

// timed runs a command with pipes for its output, as the runner does, and returns what it took from the fork to
// the end of its output. A command that fails ends the measurement.
func timed(ctx context.Context, cmd *exec.Cmd) (time.Duration, error) {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, output.Bytes())
	}
	return time.Since(began), nil
}
