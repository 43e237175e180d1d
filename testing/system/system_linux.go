package system

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/airlock-ci/airlock/isolation/network"
	"github.com/airlock-ci/airlock/testing/guestkernel"
	"github.com/airlock-ci/airlock/testing/leakcheck"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// Options say what to start.
type Options struct {
	// Bin is the directory of the built binaries (Build makes one).
	Bin string
	// Config is added to the generated configuration's top-level keys. Tables follows [network]: further keys
	// of it first, then tables.
	Config, Tables string
	// Registries are hosts that may be talked to by plain HTTP: a test's registry.
	Registries []string
	// Env is added to the service's environment: failpoints.
	Env []string
	// Isolation is the configured level; default "process". Virtual machines may be emulated, and boot the kernel of
	// package guestkernel.
	Isolation string
	// NoMachines leaves [hypervisor] out of the configuration: for a host that cannot run virtual machines (yet).
	NoMachines bool
	// Policy, when not empty, is [policy] with its rules; then there is no configured level.
	Policy string
	// Restart starts the service again whenever it dies by a signal, as a service manager does.
	Restart bool
	// LeaveExecutor leaves the executor running when the service stops while something still needs it, as the
	// installed service does.
	LeaveExecutor bool
	// StateDir keeps images between systems; empty means one below the prefix.
	StateDir string
	// Marks get the names that all of this system's things carry; nil when nobody keeps a leakcheck.
	Marks *leakcheck.Marks
	// Reachable lets sandboxes reach the host at Gateway: for a test's GitLab, which listens there.
	Reachable bool
}

// System is a running Airlock.
type System struct {
	// Dir is the prefix; state, run directories and configuration are below it.
	Dir, Bin, ConfigPath, Socket string
	// Gateway is the host's address on the sandboxes' bridge.
	Gateway string

	options Options
	mu      sync.Mutex
	host    *exec.Cmd
	exited  chan struct{}
	log     syncbuf.Buffer
}

// Build compiles the four binaries into dir as `make build` does.
func Build(ctx context.Context, dir string) error {
	root, err := ModuleRoot()
	if err != nil {
		return err
	}
	for _, name := range []string{"airlock", "airlock-driver", "airlock-executor", "airlock-agent"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -X main.version=test", "-o", filepath.Join(dir, name), "./cmd/"+name)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// ModuleRoot is the directory of go.mod, whichever package's test runs.
func ModuleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// Start writes a configuration and starts the service; it returns when the executor answers.
func Start(ctx context.Context, o Options) (*System, error) {
	dir, err := os.MkdirTemp("", "airlock-") // short: socket paths have 107 bytes
	if err != nil {
		return nil, err
	}
	level := fmt.Sprintf("isolation = %q\n", cmp.Or(o.Isolation, "process"))
	if o.Policy != "" {
		level, o.Tables = "", o.Tables+"\n"+o.Policy
	}
	s := &System{Dir: dir, Bin: o.Bin, ConfigPath: filepath.Join(dir, "config.toml"), Socket: filepath.Join(dir, "run/host/host.sock"), options: o}
	tag := strings.TrimPrefix(filepath.Base(dir), "airlock-")
	number, _ := strconv.ParseUint(tag, 10, 64)
	if o.StateDir == "" {
		o.StateDir = filepath.Join(dir, "state")
	}
	prefix, bridge := subnet(number), "al"+shorten(tag)
	if o.Marks != nil {
		// The last of the directory's name is that of the cgroups, too.
		o.Marks.Add(filepath.Base(dir), o.StateDir, bridge, network.PortPrefix(bridge))
	}
	s.Gateway = prefix.Addr().Next().String()
	if o.Reachable {
		o.Tables = fmt.Sprintf("allow = [%q]\n%s", s.Gateway, o.Tables)
	}
	if len(o.Registries) > 0 {
		o.Tables += fmt.Sprintf("\n[cache]\ninsecure_registries = [\"%s\"]\n", strings.Join(o.Registries, "\", \""))
	}
	if !o.NoMachines && !strings.Contains(o.Tables, "[hypervisor]") {
		kernel, err := guestkernel.Dir()
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		o.Tables += fmt.Sprintf("\n[hypervisor]\nallow_emulation = true\nkernel_dir = %q\n", kernel)
	}
	config := level + fmt.Sprintf("state_dir = %q\nrun_dir = %q\ngroup = \"root\"\ncgroup_parent = \"airlock-%s\"\nlog_level = \"debug\"\nreap_interval = \"2s\"\n%s\n[network]\nbridge = %q\nsubnet = %q\n%s\n",
		o.StateDir, filepath.Join(dir, "run"), tag, o.Config, bridge, prefix, o.Tables)
	if err := os.WriteFile(s.ConfigPath, []byte(config), 0o644); err != nil {
		return nil, err
	}
	if err := s.StartHost(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// shorten makes a bridge name's tail: the name has 11 bytes at the most.
func shorten(tag string) string {
	if len(tag) > 8 {
		return tag[len(tag)-8:]
	}
	return tag
}

// subnet picks one of 1,024 networks of 62 sandboxes below 10.231.0.0/16 by number, so that systems side
// by side rarely meet; when they do, the second says so at its start.
func subnet(number uint64) netip.Prefix {
	n := number % 1024
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 231, byte(n >> 2), byte(n&3) << 6}), 26)
}

// StartHost starts the service, also after its end, and waits until the executor answers.
func (s *System) StartHost(ctx context.Context) error {
	if err := s.launch(); err != nil {
		return err
	}
	return s.WaitAnswer(ctx)
}

// launch starts the service's process; with Options.Restart it starts it again whenever a signal ended it.
func (s *System) launch() error {
	cmd := exec.Command(filepath.Join(s.Bin, "airlock"), "serve", "--config", s.ConfigPath)
	if !s.options.LeaveExecutor {
		cmd.Args = append(cmd.Args, "--stop-executor-on-exit")
	}
	cmd.Env = append(os.Environ(), s.options.Env...)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.mu.Lock()
	s.host, s.exited = cmd, exited
	s.mu.Unlock()
	go func() {
		err := cmd.Wait()
		var status *exec.ExitError
		if s.options.Restart && errors.As(err, &status) && !status.Exited() {
			if err := s.launch(); err != nil {
				_, _ = fmt.Fprintf(&s.log, "starting the service again: %v\n", err)
			}
		}
		close(exited)
	}()
	return nil
}

// WaitAnswer waits until the executor answers.
func (s *System) WaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the service does not answer"))
	defer cancel()
	for {
		out, err := s.Airlock("ps", "--json").CombinedOutput()
		if err == nil {
			return nil
		}
		s.mu.Lock()
		exited := s.exited
		s.mu.Unlock()
		select {
		case <-exited:
			if !s.options.Restart {
				return fmt.Errorf("the service ended at its start:\n%s", s.Log())
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %s\n%s", context.Cause(ctx), err, out, s.Log())
		default:
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Airlock returns a command line of the administrator's for this system.
func (s *System) Airlock(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.Bin, "airlock"), args...)
	cmd.Env = append(os.Environ(), "AIRLOCK_SOCKET="+s.Socket)
	return cmd
}

// DriverArgs are the driver's path and the arguments that follow its verb.
func (s *System) DriverArgs() (path string, args []string) {
	return filepath.Join(s.Bin, "airlock-driver"), []string{"--socket", s.Socket}
}

// Reload edits the configuration, by pairs of old and new text, lets the service read it again, and returns when it says
// in its log what is expected.
func (s *System) Reload(said string, replace ...string) error {
	before := strings.Count(s.Log(), said)
	content, err := os.ReadFile(s.ConfigPath)
	if err != nil {
		return err
	}
	changed := strings.NewReplacer(replace...).Replace(string(content))
	if changed == string(content) {
		return fmt.Errorf("nothing of %q is in the configuration", replace)
	}
	if err := errors.Join(os.WriteFile(s.ConfigPath, []byte(changed), 0o644), syscall.Kill(s.HostPID(), syscall.SIGHUP)); err != nil {
		return err
	}
	return s.AwaitLog(context.Background(), 10*time.Second, said, before+1)
}

// AwaitLog returns when the service has logged a text so many times.
func (s *System) AwaitLog(ctx context.Context, patience time.Duration, text string, times int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the service did not log %q within %s", text, patience))
	defer cancel()
	for strings.Count(s.Log(), text) < times {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// What the service logs when it has read its configuration again, or keeps the old one.
const (
	Reloaded    = "the configuration was reloaded"
	NotReloaded = "the configuration was NOT reloaded"
)

// Log is what the service logged so far.
func (s *System) Log() string { return s.log.String() }

// HostPID is the service's process id.
func (s *System) HostPID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host.Process.Pid
}

// ExecutorPID is the executor's process id: this system's only airlock-executor.
func (s *System) ExecutorPID() (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && bytes.Contains(cmdline, []byte("airlock-executor")) && bytes.Contains(cmdline, []byte(s.Dir)) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no executor of %s runs", s.Dir)
}

// KillHost ends the service as a crash would, and returns when it is dead, with Options.Restart when the next one
// was started.
func (s *System) KillHost() error {
	s.mu.Lock()
	host, exited := s.host, s.exited
	s.mu.Unlock()
	if err := host.Process.Kill(); err != nil {
		return err
	}
	<-exited
	return nil
}

// WaitHost returns when the service has ended.
func (s *System) WaitHost(timeout time.Duration) error {
	s.mu.Lock()
	exited := s.exited
	s.mu.Unlock()
	select {
	case <-exited:
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("the service still runs after %s", timeout)
	}
}

// Stop ends service and executor in good order, and keeps the prefix for a look.
func (s *System) Stop() error {
	s.mu.Lock()
	host := s.host
	s.mu.Unlock()
	select {
	case <-s.exited:
		return nil
	default:
	}
	if err := host.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := s.WaitHost(60 * time.Second); err != nil {
		return errors.Join(err, s.KillHost())
	}
	return nil
}

// Close stops the system and removes its prefix.
func (s *System) Close() error {
	return errors.Join(s.Stop(), os.RemoveAll(s.Dir))
}
