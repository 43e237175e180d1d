// Package supervisor is `airlock serve`: the go-plugin client that launches the executor, checks and watches it, starts it
// again when it ends, finds it again after its own restart, and keeps the sockets on which drivers and administrators
// reach it.
//
// It owns the executor's process and the sockets. It knows nothing of jobs, and no byte of one passes here: whatever
// becomes of the supervisor, a call goes on. Its caller is cmd/airlock.
package supervisor

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/identity"
	"github.com/airlock-ci/airlock/internal/private"
)

// Options configure Run. ConfigPath, ExecutorPath and RunDir are required.
type Options struct {
	// ConfigPath is the configuration file that the executor reads.
	ConfigPath string
	// ExecutorPath is the executor's binary.
	ExecutorPath string
	// Checksum is the SHA-256 that the binary must have, in hex; empty takes what it has when Run starts. A
	// binary that differs is never started.
	Checksum string
	// RunDir holds what must not outlive a boot: locks, the plugin's socket and certificates, the record of
	// the executor. It is made when missing.
	RunDir string
	// SocketPath is where drivers and commands connect; DefaultSocket(RunDir) when empty.
	SocketPath string
	// Group is the group whose members may drive jobs; empty: root alone.
	Group string
	// Sockets are those of runner classes, beside SocketPath.
	Sockets []Socket
	// Stored are sockets that the system's service manager kept for a former supervisor (Linux); those that are not
	// wanted any more are closed.
	Stored []control.Socket
	// Store gives the sockets to the service manager to keep, and reports whether there is one that does; may be nil.
	Store func([]control.Socket) (kept bool, err error)
	// MetricsAddress serves Prometheus metrics under /metrics when not empty: "127.0.0.1:9402".
	MetricsAddress string
	// StopExecutor ends the executor, and by that every sandbox, when Run ends. Otherwise an executor with
	// living sandboxes is left running for the next supervisor.
	StopExecutor bool
	// Version is Airlock's own, for the metrics.
	Version string
	Logger  zerolog.Logger
	// Reload makes the executor read its configuration again whenever it delivers; may be nil.
	Reload <-chan os.Signal
	// Ready is called once when callers can connect; may be nil.
	Ready func()

	// answerWithin replaces answerTimeout for the first answer; tests shorten it.
	answerWithin time.Duration
}

// Socket is a socket for the callers of one runner class.
type Socket struct {
	// Path is the socket's, on Windows the name of a pipe. Group may use it.
	Path, Group string
	// RunnerClass is that of every caller there, and of no caller elsewhere.
	RunnerClass string
}

// How long things may take. They are generous where a loaded machine must not turn into a failed job.
const (
	// reloadPatience is how long a reload waits for an executor that is being started.
	reloadPatience = 20 * time.Second
	// startTimeout bounds an executor's start, the recovery of its journal included.
	startTimeout = 2 * time.Minute
	// answerTimeout bounds an executor's answer to a simple question. One that was found and does not answer
	// in time is ended, with its sandboxes: so it is longer than a busy machine needs.
	answerTimeout = 10 * time.Second
	// StopGrace is how long an executor has, between SIGTERM and SIGKILL, to end its calls and destroy its
	// sandboxes.
	StopGrace = 4 * time.Minute
	// watchInterval is how often a living executor is asked whether it answers.
	watchInterval = 15 * time.Second
)

// paths are the files of a run directory.
type paths struct{ run string }

func (p paths) lockFile() string     { return filepath.Join(p.run, "host.lock") }
func (p paths) record() string       { return filepath.Join(p.run, "executor.json") }
func (p paths) plugin() string       { return filepath.Join(p.run, "plugin") }
func (p paths) executorLock() string { return filepath.Join(p.plugin(), "executor.lock") }
func (p paths) tls() string          { return filepath.Join(p.plugin(), "tls") }

// prepare makes the directories: the run directory must let the group through to the socket's, the plugin's is
// root's alone.
func (p paths) prepare() error {
	if err := makeRunDir(p.run); err != nil {
		return err
	}
	return private.MakeDir(p.plugin())
}

// Run serves until ctx ends, and then returns nil. It returns an error when it cannot start, or when the
// executor's binary cannot be used and only a restart of the service can change that.
func Run(ctx context.Context, opts Options) error {
	checksum, err := wantedChecksum(opts)
	if err != nil {
		return err
	}
	where := paths{opts.RunDir}
	if err := where.prepare(); err != nil {
		return fault.Adminf("preparing the run directory %s: %w", opts.RunDir, err)
	}
	lock, err := acquireLock(where)
	if err != nil {
		return err
	}
	defer lock.Release()

	if err := control.EnsureTLS(where.tls()); err != nil {
		return fault.Systemf("making the certificates of supervisor and executor: %w", err)
	}
	supervisor := newSupervisor(opts, where, checksum)
	metrics := newMetrics(opts.Version, supervisor.scrape)
	supervisor.metrics = metrics
	stopMetrics, err := metrics.serve(opts.MetricsAddress, opts.Logger)
	if err != nil {
		return err
	}
	defer stopMetrics()
	go reload(ctx, opts, supervisor)
	err = supervisor.run(ctx)
	opts.Logger.Info().Msg("stopped")
	return err
}

// errStopping is the cause with which everything ends when the service does.
var errStopping = errors.New("the Airlock service is stopping")

// reload passes requests to reload on. A configuration that is refused changes nothing.
func reload(ctx context.Context, opts Options, supervisor *supervisor) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-opts.Reload: // nil: never
			if err := supervisor.reload(ctx); err != nil {
				opts.Logger.Error().Err(err).Str("config", opts.ConfigPath).
					Msg("the configuration was NOT reloaded: the old one stays in force")
				continue
			}
			opts.Logger.Info().Str("config", opts.ConfigPath).Msg("the configuration was reloaded")
		}
	}
}

func wantedChecksum(opts Options) ([]byte, error) {
	actual, err := checksumOf(opts.ExecutorPath)
	if err != nil {
		return nil, fault.Adminf("reading the executor %s: %w", opts.ExecutorPath, err)
	}
	if opts.Checksum == "" {
		return actual, nil
	}
	wanted, err := hex.DecodeString(opts.Checksum)
	if err != nil || len(wanted) != len(actual) {
		return nil, fault.Adminf("the executor's checksum must be %d hex digits", 2*len(actual))
	}
	if hex.EncodeToString(actual) != hex.EncodeToString(wanted) {
		return nil, fault.WithRemedy(fault.Adminf("the executor %s has the checksum %x, not %x",
			opts.ExecutorPath, actual, wanted), "install the release that the checksum belongs to")
	}
	return wanted, nil
}

// acquireLock makes this process the only supervisor of a run directory.
func acquireLock(where paths) (*identity.Lock, error) {
	lock, err := identity.Acquire(where.lockFile())
	if errors.Is(err, identity.ErrLocked) {
		return nil, fault.WithRemedy(fault.Adminf("another airlock serve runs here: %w", err),
			"stop it, or give this one a run_dir of its own")
	}
	if err != nil {
		return nil, fault.Adminf("locking the run directory: %w", err)
	}
	return lock, nil
}
