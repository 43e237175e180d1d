package supervisor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/identity"
)

// passedOn are the variables of the service's environment that the executor gets; the rest stays out of its
// /proc/PID/environ. Proxies and certificates are for image pulls.
var passedOn = []string{
	"PATH", "HOME", "TZ", failpoint.Variable,
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

func executorEnvironment(socketDir string) []string {
	env := []string{goplugin.EnvUnixSocketDir + "=" + socketDir}
	for _, name := range passedOn {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return append(env, systemEnvironment()...)
}

// launch starts an executor, records how to find it again, and makes it accept callers.
func (s *supervisor) launch(ctx context.Context) (_ *executor, err error) {
	if err := s.endForgotten(); err != nil {
		return nil, err
	}
	if err := s.checkBinary(); err != nil {
		return nil, err
	}
	removeStaleSockets(s.paths.plugin())
	tlsConfig, err := control.ClientTLS(s.paths.tls())
	if err != nil {
		return nil, err
	}
	// The process must survive ctx; only its start may be given up.
	life, abort := context.WithCancelCause(context.Background())
	started := context.AfterFunc(ctx, func() { abort(errStopping) })
	cmd := s.command(life)
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  control.Handshake(),
		VersionedPlugins: control.ClientPlugins(),
		Cmd:              cmd,
		SecureConfig:     &goplugin.SecureConfig{Checksum: s.checksum, Hash: sha256.New()},
		SkipHostEnv:      true,
		TLSConfig:        tlsConfig,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		StartTimeout:     startTimeout,
		Logger:           s.logs.hclog(),
	})
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	undo.Push(func() error {
		abort(errors.New("the executor's start failed"))
		go client.Kill()
		return nil
	})
	e, err := s.connect(ctx, client)
	if err != nil {
		return nil, explainLaunch(err)
	}
	if err := e.checkProtocol(); err != nil {
		return nil, explainLaunch(err)
	}
	if !started() {
		return nil, explainLaunch(errStopping)
	}
	if err := failpoint.Hit("supervisor/executor-started"); err != nil {
		return nil, explainLaunch(err)
	}
	process, err := identity.Of(cmd.Process.Pid)
	if err != nil {
		return nil, explainLaunch(fmt.Errorf("identifying it: %w", err))
	}
	if e.process, err = identity.Open(process); err != nil {
		return nil, explainLaunch(fmt.Errorf("identifying it: %w", err))
	}
	undo.Push(func() error { e.process.Close(); return nil })
	if err := s.recordLaunched(e, process); err != nil {
		return nil, explainLaunch(err)
	}
	if err := s.handSockets(ctx, e); err != nil {
		return nil, explainLaunch(err)
	}
	undo.Release()
	return e, nil
}

// command is the executor's command line, in an environment and a session of its own.
func (s *supervisor) command(life context.Context) *exec.Cmd {
	args := control.Args{Config: s.opts.ConfigPath, TLSDir: s.paths.tls(), Lock: s.paths.executorLock()}
	cmd := exec.CommandContext(life, s.opts.ExecutorPath, args.CommandLine()...)
	cmd.Env = executorEnvironment(s.paths.plugin())
	cmd.SysProcAttr = ownSession()
	return cmd
}

// handSockets makes the executor accept callers.
func (s *supervisor) handSockets(ctx context.Context, e *executor) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.answerWithin, errNoAnswer)
	defer cancel()
	if err := s.sockets.handTo(ctx, e.rpc, s.paths); err != nil {
		return err
	}
	if len(s.sockets.all()) == 0 { // the executor has made them
		s.logListening()
	}
	return failpoint.Hit("supervisor/sockets-handed")
}

// recordLaunched writes how to find the executor again.
func (s *supervisor) recordLaunched(e *executor, process identity.Process) error {
	reattach := e.client.ReattachConfig()
	e.record = record{
		Network: reattach.Addr.Network(), Address: reattach.Addr.String(),
		Process: process, Instance: e.version.GetInstance(), Protocol: e.version.GetProtocol(),
		Checksum: hexOf(s.checksum), Started: time.Now().UTC(), Sockets: s.socketPaths(),
	}
	if err := writeRecord(s.paths.record(), e.record); err != nil {
		return fmt.Errorf("recording it: %w", err)
	}
	return nil
}

func (s *supervisor) socketPaths() (all []string) {
	for _, e := range s.opts.entrances() {
		all = append(all, e.GetPath())
	}
	return all
}

// checkBinary refuses a binary that is not the one the service was started with. go-plugin compares again
// when it starts it; this message says what to do.
func (s *supervisor) checkBinary() error {
	actual, err := checksumOf(s.opts.ExecutorPath)
	if err != nil {
		return fault.Adminf("reading the executor: %w", err)
	}
	if hexOf(actual) != hexOf(s.checksum) {
		return fault.WithRemedy(fault.Adminf("%w: %s has changed since the service was started (its SHA-256 is %x, "+
			"not %x)", errUnusable, s.opts.ExecutorPath, actual, s.checksum), "restart the service after an upgrade")
	}
	return nil
}

func explainLaunch(err error) error {
	if errors.Is(err, goplugin.ErrChecksumsDoNotMatch) {
		return fault.Adminf("%w: its binary changed while it was being started", errUnusable)
	}
	return fmt.Errorf("starting the executor: %w", err)
}

// removeStaleSockets removes what killed executors left; it is called while none lives.
func removeStaleSockets(dir string) {
	sockets, _ := filepath.Glob(filepath.Join(dir, "plugin*")) // the pattern is correct, so there is no error
	for _, socket := range sockets {
		_ = os.Remove(socket)
	}
}

// endForgotten ends an executor that lives without a usable record: its supervisor was killed before it could write
// one, or it does not answer any more. Two executors must never share a journal.
func (s *supervisor) endForgotten() error {
	lock, err := identity.Acquire(s.paths.executorLock())
	if err == nil {
		lock.Release()
		return nil
	}
	if !errors.Is(err, identity.ErrLocked) {
		return err
	}
	holder, err := identity.Holder(s.paths.executorLock())
	if err != nil {
		return fmt.Errorf("an executor lives but cannot be identified: %w", err)
	}
	process, err := identity.Open(holder)
	if err != nil { // it is just ending, or has passed the lock to a child for a moment: try again
		return fmt.Errorf("an executor (process %d) is still ending: %w", holder.PID, err)
	}
	defer process.Close()
	s.log.Warn().Int("pid", holder.PID).Msg("ending an executor that no supervisor knows; its sandboxes end with it")
	return endProcess(process, s.grace)
}
