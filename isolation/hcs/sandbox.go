package hcs

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// sandbox is one running compute system.
type sandbox struct {
	runtime  *Runtime
	id, name string
	system   system
	image    isolation.ImageConfig
	// helper says that there is a helper directory, and helperEnv what its stages get beside the image's environment.
	helper    bool
	helperEnv []string
	// scripts is the directory of the host that holds the stages' scripts.
	scripts string
	// path is the PATH in the sandbox, as its first process found it.
	path string

	done   chan struct{} // closed when the system has ended
	closed chan struct{} // closed when its handle was given back after that

	mu sync.Mutex
	// active are the processes of ours that run.
	active map[*stage]bool
}

var _ isolation.Sandbox = (*sandbox)(nil)

func newSandbox(r *Runtime, spec isolation.Spec, name string, container system) *sandbox {
	s := &sandbox{
		runtime: r, id: spec.ID, name: name, system: container, image: spec.Image.Config,
		helper: r.host.opts.HelperDir != "", scripts: scriptsOf(spec.ScratchDir),
		done: make(chan struct{}), closed: make(chan struct{}), active: map[*stage]bool{},
	}
	if spec.Helper != nil {
		s.helperEnv = spec.Helper.Config.Env
	}
	go func() { // ends with the system, at the latest when its handle is closed
		defer close(s.closed)
		err := container.Wait()
		close(s.done)
		r.host.log.Debug().Str("sandbox", s.id).AnErr("how", err).Msg("the container has ended")
		// However it ended, the service keeps an ended system for as long as there is a handle of it.
		r.host.attempt("closing "+s.name, container.Close)
	}()
	return s
}

// hostsLine is a line that may stand in a hosts file, and in the script that writes it.
var hostsLine = regexp.MustCompile(`^[0-9A-Fa-f:.]+( [A-Za-z0-9_.-]+)+$`)

// pathMark stands before the PATH in the output of the first process.
const pathMark = "AIRLOCK-PATH="

// setUp runs the first process of a sandbox: it makes the job's directories, writes the names of other hosts, and
// tells the PATH. It runs as an administrator of the container, and lets the image's user write to what it made.
func (s *sandbox) setUp(ctx context.Context, spec isolation.Spec) error {
	var script strings.Builder
	script.WriteString("@echo off\r\n")
	dirs := []string{buildsDir}
	if spec.CacheDir == "" {
		dirs = append(dirs, cacheDir)
	}
	for _, dir := range dirs {
		fmt.Fprintf(&script, "if not exist %s mkdir %s\r\nif not exist %s exit 3\r\n", dir, dir, dir)
		if user := spec.Image.Config.User; user != "" && !strings.EqualFold(user, administrator) {
			fmt.Fprintf(&script, "icacls %s /grant %s:(OI)(CI)F >nul 2>nul\r\n", dir, plainUser)
		}
	}
	for _, line := range spec.Network.Hosts {
		fmt.Fprintf(&script, ">>%%SystemRoot%%\\System32\\drivers\\etc\\hosts echo %s\r\n", line)
	}
	script.WriteString("echo " + pathMark + "%PATH%\r\nexit 0\r\n")

	ctx, cancel := context.WithTimeoutCause(ctx, s.runtime.host.timing.setup, errors.New("the first process of the sandbox took too long"))
	defer cancel()
	var output bytes.Buffer
	p, err := s.Start(ctx, isolation.ProcessSpec{
		Script: []byte(script.String()), Shell: "cmd", User: administrator, Dir: `C:\`, Stdout: &output, Stderr: &output,
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Signal(context.WithoutCancel(ctx), sigkill) })
	defer stop()
	exit, err := p.Wait()
	switch {
	case ctx.Err() != nil:
		return fault.Systemf("preparing the sandbox: %w", context.Cause(ctx))
	case err != nil:
		return fault.Systemf("preparing the sandbox: %w", err)
	case exit.Code != 0:
		return fault.Systemf("preparing the sandbox ended with status %d: %s", exit.Code, strings.TrimSpace(output.String()))
	}
	for line := range strings.Lines(output.String()) {
		if path, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), pathMark); ok {
			s.path = path
		}
	}
	return nil
}

func (s *sandbox) ID() string { return s.id }

// Done is closed when the compute system has ended.
func (s *sandbox) Done() <-chan struct{} { return s.done }

func (s *sandbox) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *sandbox) gone(err error) error {
	if err == nil {
		return fault.Systemf("sandbox %s: %w", s.id, isolation.ErrSandboxGone)
	}
	return fault.Systemf("sandbox %s: %w: %w", s.id, isolation.ErrSandboxGone, err)
}

// Stats reads what the container uses. Windows does not tell of processes that the memory limit ended.
func (s *sandbox) Stats(context.Context) (isolation.Stats, error) {
	if s.ended() {
		return isolation.Stats{}, s.gone(nil)
	}
	h := s.runtime.host
	stats, err := bounded(h, h.timing.call, "reading statistics", s.system.Statistics, nil)
	if err != nil {
		return isolation.Stats{}, s.explain(err, "reading statistics")
	}
	processes, err := bounded(h, h.timing.call, "listing processes", s.system.Processes, nil)
	if err != nil {
		return isolation.Stats{}, s.explain(err, "listing processes")
	}
	return isolation.Stats{Memory: stats.Memory, CPU: stats.CPU, PIDs: int64(len(processes))}, nil
}

// explain says that the sandbox is gone if that is why a call failed. The news of its end may come a little later.
func (s *sandbox) explain(err error, what string) error {
	select {
	case <-s.done:
		return s.gone(err)
	case <-time.After(s.runtime.host.timing.settling):
		return fault.Systemf("sandbox %s: %s: %w", s.id, what, err)
	}
}

// Destroy removes the sandbox, and waits until the handle of its ended system was given back. News of the end that do
// not come are not worth an error: the handle then goes with this process.
func (s *sandbox) Destroy(ctx context.Context) error {
	if err := s.runtime.Destroy(ctx, s.id); err != nil {
		return err
	}
	select {
	case <-s.closed:
	case <-time.After(s.runtime.host.timing.settling):
	}
	return nil
}

// writeScript puts a script where the sandbox sees it, and returns its path here and there.
func (s *sandbox) writeScript(content []byte, extension string) (here, there string, err error) {
	name := strings.ToLower(rand.Text()[:16]) + extension
	here = filepath.Join(s.scripts, name)
	file, err := os.OpenFile(here, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", "", err
	}
	// Its access list is set before there is anything in it.
	if err = s.runtime.host.compute.ShareScript(here); err == nil {
		_, err = file.Write(content)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return "", "", errors.Join(err, os.Remove(here))
	}
	return here, scriptDir + `\` + name, nil
}
