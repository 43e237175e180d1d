package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/bytesize"
)

// sandboxJSON is a sandbox in JSON output. Its field names are a promise to scripts; sizes are in bytes,
// limits of 0 are none, times are RFC 3339 in UTC.
type sandboxJSON struct {
	ID               string     `json:"id"`
	JobID            int64      `json:"job_id"` // 0: made by airlock run
	Project          string     `json:"project"`
	Isolation        string     `json:"isolation"`
	Reason           string     `json:"reason"`
	Rule             string     `json:"rule"`   // of the policy; "default" when none matched
	Policy           string     `json:"policy"` // digest
	Runtime          string     `json:"runtime"`
	Image            string     `json:"image"`
	Digest           string     `json:"digest"`
	State            string     `json:"state"`
	Stage            string     `json:"stage"`
	CreatedAt        *time.Time `json:"created_at"`
	Network          string     `json:"network"`
	Address          string     `json:"address"`
	CPUs             float64    `json:"cpus"`
	MemoryBytes      int64      `json:"memory_bytes"`
	MemoryLimitBytes int64      `json:"memory_limit_bytes"`
	PIDs             int64      `json:"pids"`
	PIDsLimit        int64      `json:"pids_limit"`
	ScratchUsedBytes int64      `json:"scratch_used_bytes"`
	ScratchBytes     int64      `json:"scratch_bytes"`
	HandleID         string     `json:"handle_id"`
	Steps            []stepJSON `json:"steps"`
	// Machine is null for a sandbox that shares the host's kernel.
	Machine *machineJSON `json:"machine"`
}

// machineJSON is the virtual machine of a sandbox.
type machineJSON struct {
	VCPUs       int32  `json:"vcpus"`
	MemoryBytes int64  `json:"memory_bytes"`
	Accelerator string `json:"accelerator"` // kvm or tcg
	Kernel      string `json:"kernel"`
}

// stepJSON is one timed step of making a sandbox.
type stepJSON struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

func newSandboxJSON(s *api.SandboxInfo) sandboxJSON {
	out := sandboxJSON{
		ID: s.ID, JobID: s.JobID, Project: s.Project, Isolation: s.Isolation,
		Reason: s.Reason, Rule: s.Rule, Policy: s.Policy, Runtime: s.Runtime, Image: s.Image, Digest: s.Digest,
		State: s.State, Stage: s.Stage, CreatedAt: timestamp(s.CreatedUnixNano),
		Network: s.Network, Address: s.Address, CPUs: s.CPUs,
		MemoryBytes: s.MemoryBytes, MemoryLimitBytes: s.MemoryLimitBytes,
		PIDs: s.PIDs, PIDsLimit: s.PIDsLimit,
		ScratchUsedBytes: s.ScratchUsedBytes, ScratchBytes: s.ScratchBytes,
		HandleID: s.HandleID, Steps: []stepJSON{},
	}
	for _, step := range s.Steps {
		out.Steps = append(out.Steps, stepJSON{step.Name, time.Duration(step.Nanoseconds).Seconds()})
	}
	if m := s.Machine; m != nil {
		out.Machine = &machineJSON{m.VCPUs, m.MemoryBytes, m.Accelerator, m.Kernel}
	}
	return out
}

func psCommand() *cli.Command {
	return &cli.Command{
		Name:   "ps",
		Usage:  "list the living sandboxes",
		Flags:  []cli.Flag{jsonFlag()},
		Action: listSandboxes,
	}
}

func listSandboxes(ctx context.Context, c *cli.Command) error {
	service, _, err := connect(ctx, c, 0, 0)
	if err != nil {
		return err
	}
	defer service.Close()
	sandboxes, err := api.Ask(ctx, service, api.ListSandboxes, api.Nothing{})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		out := make([]sandboxJSON, 0, len(sandboxes))
		for _, s := range sandboxes {
			out = append(out, newSandboxJSON(s))
		}
		return printJSON(c.Root().Writer, out)
	}
	rows := make([][]string, 0, len(sandboxes))
	for _, s := range sandboxes {
		rows = append(rows, []string{
			jobName(s), s.ID, orDash(s.Isolation), orDash(s.Runtime), cpus(s), bytesize.Format(s.MemoryBytes),
			s.Image, orDash(s.Stage), s.State,
			age(time.Since(time.Unix(0, s.CreatedUnixNano))), orDash(s.Project),
		})
	}
	return printTable(c.Root().Writer,
		[]string{"job", "sandbox", "isolation", "runtime", "cpus", "memory", "image", "stage", "state", "age", "project"}, rows)
}

// cpus are a sandbox's processors: a machine has whole ones, a container at most so many.
func cpus(s *api.SandboxInfo) string {
	switch {
	case s.Machine != nil:
		return fmt.Sprintf("%d vCPU", s.Machine.VCPUs)
	case s.CPUs == 0:
		return "-"
	default:
		return fmt.Sprintf("%g", s.CPUs)
	}
}

// jobName is a sandbox's job id; what airlock run made belongs to no job.
func jobName(s *api.SandboxInfo) string {
	if s.JobID == 0 {
		return "-"
	}
	return fmt.Sprint(s.JobID)
}
