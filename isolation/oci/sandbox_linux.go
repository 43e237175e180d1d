package oci

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// sandbox is one living container with the connection to its agent.
type sandbox struct {
	runtime *Runtime
	id      string
	memory  int64 // the limit, for messages
	agent   *agent.Client

	mutex sync.Mutex
	kills int64 // the highest count of OOM kills that was read
}

func newSandbox(r *Runtime, spec isolation.Spec, client *agent.Client) *sandbox {
	return &sandbox{runtime: r, id: spec.ID, memory: spec.Limits.Memory, agent: client}
}

func (s *sandbox) ID() string { return s.id }

// Done is closed when the agent's connection ends: the agent is process 1, so nothing else lives then.
func (s *sandbox) Done() <-chan struct{} { return s.agent.Done() }

func (s *sandbox) Stats(context.Context) (isolation.Stats, error) {
	stats, err := s.runtime.cgroups.Stats(s.id)
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

// Destroy removes the sandbox; the count of OOM kills, which goes with its cgroup, is read first.
func (s *sandbox) Destroy(ctx context.Context) error {
	s.oomKills()
	err := s.runtime.Destroy(ctx, s.id)
	return errors.Join(err, s.agent.Close())
}

// oomKills returns how many processes the memory limit has killed, as far as that is still known.
func (s *sandbox) oomKills() int64 {
	kills, err := s.runtime.cgroups.OOMKills(s.id)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err == nil {
		s.kills = max(s.kills, kills)
	}
	return s.kills
}

func (s *sandbox) Start(ctx context.Context, spec isolation.ProcessSpec) (isolation.Process, error) {
	before := s.oomKills()
	p, err := s.agent.Start(ctx, spec)
	if err != nil {
		return nil, s.explain(err, before)
	}
	return &process{Process: p, sandbox: s, killsBefore: before}, nil
}

// explain adds to an error that the sandbox is gone why it is, when the memory limit is the reason.
func (s *sandbox) explain(err error, killsBefore int64) error {
	if errors.Is(err, isolation.ErrSandboxGone) && s.oomKills() > killsBefore {
		return fault.WithRemedy(fault.Authorf("%w: %w", memoryLimitError(s.memory), err), "use less memory, or ask for a higher limit")
	}
	return err
}

// process adds to the agent's what only the host can know: whether the memory limit killed something.
type process struct {
	isolation.Process
	sandbox     *sandbox
	killsBefore int64
}

func (p *process) Wait() (isolation.Exit, error) {
	exit, err := p.Process.Wait()
	if err != nil {
		return exit, p.sandbox.explain(err, p.killsBefore)
	}
	exit.OOM = p.sandbox.oomKills() > p.killsBefore
	return exit, nil
}
