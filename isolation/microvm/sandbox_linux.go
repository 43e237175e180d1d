package microvm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

const (
	// heartbeat is the time between two questions whether the agent still answers, and answerTimeout what it has for
	// each; silences many unanswered ones in a row end the machine. In all less than half a minute.
	heartbeat     = 4 * time.Second
	answerTimeout = 9 * time.Second
	silences      = 2
	// endPatience is how long a machine whose agent is gone may take to end by itself, and to say why.
	endPatience = 3 * time.Second
)

var errHostFull = fault.WithRemedy(fault.Systemf("the host's disk is full: the scratch cannot grow"), "free space in Airlock's state directory, or lower scratch_size")

// sandbox is one living machine with the connection to its agent.
type sandbox struct {
	runtime *Runtime
	id      string
	vm      *vm
	shape   shape
	cloned  bool // restored from a template, not booted
	waited  bool // and before it was asked for
	agent   *agent.Client

	mutex sync.Mutex
	why   error // why Airlock itself ended the machine
}

func newSandbox(r *Runtime, spec isolation.Spec, shape shape) *sandbox {
	return &sandbox{runtime: r, id: spec.ID, shape: shape}
}

func (s *sandbox) ID() string { return s.id }

// Done is closed when the agent's connection ends: nothing in the guest is of use then.
func (s *sandbox) Done() <-chan struct{} { return s.agent.Done() }

// Machine implements isolation.Virtual.
func (s *sandbox) Machine() isolation.Machine {
	return isolation.Machine{
		VCPUs: s.shape.cpus, Memory: s.shape.memory,
		Accelerator: string(s.runtime.accelerator()), Kernel: s.runtime.booted().Version,
	}
}

// Stats reads from the host what the machine uses, and asks the guest for what only it can know: the number of its
// processes and of those that it killed for want of memory.
func (s *sandbox) Stats(ctx context.Context) (isolation.Stats, error) {
	stats, err := s.stats(ctx)
	if err != nil {
		select {
		case <-s.Done():
			err = fmt.Errorf("%w: %w", isolation.ErrSandboxGone, err)
		default:
		}
		return isolation.Stats{}, fault.Systemf("sandbox %s: %w", s.id, err)
	}
	return stats, nil
}

func (s *sandbox) stats(ctx context.Context) (isolation.Stats, error) {
	stats, err := s.runtime.cgroups.Stats(s.id)
	if err != nil {
		return stats, err
	}
	if stats.Memory, err = guestMemory(s.vm.command.Process.Pid); err != nil {
		return stats, err
	}
	usage, err := s.agent.Usage(ctx)
	if err != nil {
		return stats, err
	}
	stats.PIDs, stats.OOMKills = usage.PIDs, usage.OOMKills
	return stats, nil
}

// guestMemory is how much of the guest's memory is in use on the host, in bytes: the resident part of the one mapping
// that is the guest's; see proc_pid_smaps(5).
func guestMemory(pid int) (int64, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	var resident int64
	inside := false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if fields := strings.Fields(line); len(fields) >= 5 && strings.Contains(fields[0], "-") {
			inside = strings.Contains(line, "/memfd:"+memoryName)
		} else if inside && fields[0] == "Rss:" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, err
			}
			resident += n << 10
		}
	}
	if resident == 0 {
		return 0, errors.New("QEMU has no guest memory")
	}
	return resident, nil
}

// Destroy removes the sandbox.
func (s *sandbox) Destroy(ctx context.Context) error {
	s.end(errors.New("it was destroyed"))
	return s.runtime.Destroy(ctx, s.id)
}

// end ends the machine for a reason, the first of which counts.
func (s *sandbox) end(why error) {
	s.mutex.Lock()
	if s.why == nil {
		s.why = why
	}
	s.mutex.Unlock()
	_ = s.agent.Close() // always nil
	s.vm.kill()
}

// take makes a machine the sandbox's.
func (s *sandbox) take(v *vm) {
	s.vm = v
	v.notify(s.onEvent)
}

// onEvent notices what QEMU cannot go on after.
func (s *sandbox) onEvent(message qmpMessage) {
	if message.Event != "BLOCK_IO_ERROR" || !message.Data.NoSpace {
		return
	}
	s.mutex.Lock()
	if s.why == nil {
		s.why = errHostFull
	}
	s.mutex.Unlock()
	_ = s.vm.command.Process.Kill() // it may have ended
}

// watch ends the machine when its agent is gone or no longer answers. It returns when the machine has ended.
func (s *sandbox) watch() {
	silent := 0
	for silent < silences {
		select {
		case <-s.Done():
			s.vm.awaitEnd(context.Background(), endPatience)
			s.vm.kill()
			return
		case <-time.After(heartbeat):
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), answerTimeout, errors.New("no answer"))
		_, err := s.agent.Ping(ctx)
		cancel()
		silent++
		if err == nil {
			silent = 0
		}
	}
	s.end(fault.Systemf("the guest did not answer for %s", silences*(heartbeat+answerTimeout)))
}

func (s *sandbox) Start(ctx context.Context, spec isolation.ProcessSpec) (isolation.Process, error) {
	p, err := s.agent.Start(ctx, spec)
	if err != nil {
		return nil, s.explain(err)
	}
	return &process{Process: p, sandbox: s}, nil
}

// explain adds to an error that the sandbox is gone why it is.
func (s *sandbox) explain(err error) error {
	if !errors.Is(err, isolation.ErrSandboxGone) {
		return err
	}
	ended := s.vm.awaitEnd(context.Background(), endPatience+time.Second) // watch sees to it
	s.mutex.Lock()
	why := s.why
	s.mutex.Unlock()
	if why == nil && ended {
		why = s.vm.whyEnded()
	}
	if why == nil {
		return err
	}
	return fmt.Errorf("%w: %w", isolation.ErrSandboxGone, why)
}

// process adds to the agent's why a machine has ended.
type process struct {
	isolation.Process
	sandbox *sandbox
}

func (p *process) Wait() (isolation.Exit, error) {
	exit, err := p.Process.Wait()
	if err != nil {
		err = p.sandbox.explain(err)
	}
	return exit, err
}
