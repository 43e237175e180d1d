package hcs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/keylock"
	"github.com/airlock-ci/airlock/internal/waiting"
)

// owner marks our compute systems: at its start an executor ends every system of that owner.
const owner = "airlock"

// Options is what a Host needs to know.
type Options struct {
	// Dir keeps what is known of sandboxes and the trash of scratch layers, on the volume where job scratches are:
	// the trash is filled by renaming. Made when missing.
	Dir string
	// HelperDir is a directory of the host with git and gitlab-runner, mapped read-only into every sandbox; empty: none.
	HelperDir string
	// Templates lets the service clone Hyper-V containers from a machine it keeps: faster, but clones share memory
	// pages and address layout, and the base layer stays in use. Off by default.
	Templates bool
	// Host is the host's version, and CPUs its processors.
	Host Version
	CPUs int
	// MaxStuck is how many stuck systems and scratches there may be before no more jobs are taken; 0 means 3.
	MaxStuck int
	// Logger receives what a sandbox's caller cannot be told.
	Logger zerolog.Logger
}

// timing is how long things may take, and the pauses between tries. Tests shorten it.
type timing struct {
	call     time.Duration // any call that should take milliseconds
	create   time.Duration // making a compute system
	start    time.Duration // starting one
	end      time.Duration // between asking for the end of a system and its end
	setup    time.Duration // the first process of a sandbox
	pause    time.Duration // between tries to mount or rename
	dispose  []time.Duration
	drain    time.Duration // output that comes after the end of a stage
	settling time.Duration // from the end of a process to the news that its system ended
}

// Host is the compute service of this host with all of Airlock's sandboxes on it. Its two runtimes share it.
type Host struct {
	opts    Options
	compute compute
	timing  timing
	log     zerolog.Logger
	locks   keylock.Locks

	// calls counts calls, to tell apart those that hang.
	calls atomic.Int64

	// life ends with Close; what goes on in the background lives in it.
	life       context.Context
	endOfLife  context.CancelCauseFunc
	background sync.WaitGroup

	mu sync.Mutex
	// stuck are the systems and scratches that would not go, with the reason.
	stuck map[string]string
	// disposing are the names in the trash that a goroutine works on.
	disposing map[string]bool
}

var errClosed = errors.New("the runtime was closed")

// open prepares the directories. It changes nothing else: see Sweep.
func open(opts Options, service compute, timing timing) (*Host, error) {
	if opts.MaxStuck == 0 {
		opts.MaxStuck = 3
	}
	if !filepath.IsAbs(opts.Dir) {
		return nil, fault.Adminf("the directory %q is not an absolute path", opts.Dir)
	}
	h := &Host{
		opts: opts, compute: service, timing: timing, log: opts.Logger,
		stuck: map[string]string{}, disposing: map[string]bool{},
	}
	h.life, h.endOfLife = context.WithCancelCause(context.Background())
	for _, dir := range []string{h.recordDir(), h.trashDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fault.Adminf("making the directory of sandboxes: %w", err)
		}
	}
	if opts.HelperDir != "" {
		// The service does not follow links in the path of a mapped directory.
		resolved, err := filepath.EvalSymlinks(opts.HelperDir)
		if err != nil {
			return nil, fault.WithRemedy(fault.Adminf("the helper directory: %w", err),
				"name one with git and gitlab-runner in it, or none")
		}
		h.opts.HelperDir = resolved
	}
	return h, nil
}

// Close waits until nothing of the host runs in the background any more. Sandboxes that live stay.
func (h *Host) Close() error {
	h.endOfLife(errClosed)
	h.background.Wait()
	return nil
}

// bounded makes one call of the service and gives up after a while. The call itself cannot be interrupted: its thread
// stays until the service answers, and late gets what came of it then, so that nothing is left that nobody knows.
func bounded[T any](h *Host, limit time.Duration, what string, call func() (T, error), late func(T)) (T, error) {
	began := time.Now()
	value, answered, err := waiting.Call(limit, func() (T, error) {
		value, err := call()
		// The trace of a real host and that of a simulated one are compared by these lines.
		h.log.Debug().Str("call", what).Err(err).Dur("took_ms", time.Since(began)).Msg("compute service")
		return value, err
	}, func(value T, err error) {
		if err == nil && late != nil {
			late(value)
		}
	})
	if !answered {
		h.log.Error().Str("call", what).Dur("after", limit).Msg("the compute service does not answer")
		err = fmt.Errorf("%s: %w", what, errNoAnswer)
	}
	return value, err
}

// do is bounded for calls without a result. A call that does not return is in quarantine until it does: hcsshim mounts
// one layer at a time, so one that hangs there lets every later one hang, and no more jobs should come.
func (h *Host) do(what string, call func() error) error {
	name := fmt.Sprintf("call %d: %s", h.calls.Add(1), what)
	returned := make(chan struct{})
	_, err := bounded(h, h.timing.call, what, func() (struct{}, error) {
		defer close(returned)
		return struct{}{}, call()
	}, nil)
	if errors.Is(err, errNoAnswer) {
		select {
		case <-returned: // the service itself said so
		default:
			h.quarantine(name, err)
			go func() { <-returned; h.release(name) }()
		}
	}
	return err
}

// quarantine notes something that will not go: it is left alone, tried again when the reaper asks, and counts.
func (h *Host) quarantine(name string, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.stuck[name]; !known {
		h.log.Error().Err(why).Str("name", name).Int("stuck", len(h.stuck)+1).Int("limit", h.opts.MaxStuck).
			Msg("in quarantine: it will not go, other jobs go on")
	}
	h.stuck[name] = why.Error()
}

// release takes something out of quarantine: it went after all.
func (h *Host) release(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.stuck[name]; known {
		delete(h.stuck, name)
		h.log.Info().Str("name", name).Msg("out of quarantine: it is gone")
	}
}

// admit refuses new sandboxes while too much is stuck: a service in that state gets worse with every start.
func (h *Host) admit() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.stuck) < h.opts.MaxStuck {
		return nil
	}
	return fault.WithRemedy(fault.Systemf("%d sandboxes of this host are stuck in the compute service, so it takes no more jobs", len(h.stuck)),
		"restart this host; a restart of the service vmcompute may do, but ends every container")
}

// Stuck lists what is in quarantine, with the reasons.
func (h *Host) Stuck() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.stuck)
}
