package jobs

import (
	"context"
	"slices"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/isolation"
)

// List describes the living sandboxes, oldest first, without their use of resources.
func (s *Service) List(context.Context) ([]*api.SandboxInfo, error) {
	var infos []*api.SandboxInfo
	for _, sess := range s.all() {
		infos = append(infos, sess.info())
	}
	return infos, nil
}

// Inspect describes one living sandbox with its current use of resources.
func (s *Service) Inspect(ctx context.Context, job string) (*api.SandboxInfo, error) {
	sess, err := s.find(job)
	if err != nil {
		return nil, err
	}
	info := sess.info()
	if sandbox, err := sess.usable(); err == nil {
		stats, err := sandbox.Stats(ctx)
		if err != nil {
			return nil, err
		}
		info.MemoryBytes, info.Pids = stats.Memory, stats.PIDs
	}
	return info, nil
}

// info describes a session. Until prepare has returned, only what is fixed from the start is told.
func (sess *session) info() *api.SandboxInfo {
	info := &api.SandboxInfo{
		Id: sess.id, JobId: sess.jobID, Project: sess.project, State: sess.state(),
		CreatedUnixNano: sess.created.UnixNano(), HandleId: sess.handle,
	}
	sess.mu.Lock()
	info.Stage, info.Steps = sess.stage, slices.Clone(sess.steps)
	sess.mu.Unlock()
	if info.State == "preparing" || sess.decision.Level == isolation.Level(0) {
		return info
	}
	d := sess.decision
	info.Isolation, info.Reason, info.Network, info.Address = d.Level.String(), d.Reason, d.Network, sess.network.Address
	info.MemoryLimitBytes, info.Cpus, info.PidsLimit, info.ScratchBytes = d.Limits.Memory, d.Limits.CPUs, d.Limits.PIDs, d.Limits.Scratch
	info.Image, info.Digest = sess.base.Image, sess.base.Digest
	if sess.runtime != nil {
		info.Runtime = sess.runtime.Name()
	}
	return info
}
