package jobs

import (
	"context"
	"slices"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/isolation"
)

// List describes the living sandboxes, oldest first.
func (s *Service) List(ctx context.Context) ([]*api.SandboxInfo, error) {
	var infos []*api.SandboxInfo
	for _, sess := range s.all() {
		info := sess.info()
		if err := s.measure(ctx, sess, info); err != nil {
			sess.log.Debug().Err(err).Msg("a sandbox's use of resources is not known") // it may just be ending
		}
		infos = append(infos, info)
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
	return info, s.measure(ctx, sess, info)
}

// measure fills in what a sandbox is and uses now, if it can be used.
func (s *Service) measure(ctx context.Context, sess *session, info *api.SandboxInfo) error {
	sandbox, err := sess.usable()
	if err != nil {
		return nil // being made, or ending: it has no use of resources to tell
	}
	if virtual, ok := sandbox.(isolation.Virtual); ok {
		m := virtual.Machine()
		info.Machine = &api.Machine{VCPUs: int32(m.VCPUs), MemoryBytes: m.Memory, Accelerator: m.Accelerator, Kernel: m.Kernel}
	}
	stats, err := sandbox.Stats(ctx)
	if err != nil {
		return err
	}
	info.MemoryBytes, info.PIDs = stats.Memory, stats.PIDs
	info.ScratchUsedBytes, err = s.layers.ScratchUsed(ctx, sess.id)
	return err
}

// info describes a session. Until prepare has returned, only what is fixed from the start is told.
func (sess *session) info() *api.SandboxInfo {
	info := &api.SandboxInfo{
		ID: sess.id, JobID: sess.jobID, Project: sess.project, State: sess.state(),
		CreatedUnixNano: sess.created.UnixNano(), HandleID: sess.handle,
	}
	sess.mu.Lock()
	info.Stage, info.Steps = sess.stage, slices.Clone(sess.steps)
	sess.mu.Unlock()
	if info.State == "preparing" || sess.decision.Level == isolation.Level(0) {
		return info
	}
	d := sess.decision
	info.Isolation, info.Reason, info.Network, info.Address = d.Level.String(), d.Reason, d.Network, sess.network.Address
	info.MemoryLimitBytes, info.CPUs, info.PIDsLimit, info.ScratchBytes = d.Limits.Memory, d.Limits.CPUs, d.Limits.PIDs, d.Limits.Scratch
	info.Rule, info.Policy = d.Rule, d.Policy
	info.Image, info.Digest = sess.base.Image, sess.base.Digest
	if sess.runtime != nil {
		info.Runtime = sess.runtime.Name()
	}
	return info
}
