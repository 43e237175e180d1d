package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/executor/api"
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
		ID: s.GetId(), JobID: s.GetJobId(), Project: s.GetProject(), Isolation: s.GetIsolation(),
		Reason: s.GetReason(), Rule: s.GetRule(), Policy: s.GetPolicy(), Runtime: s.GetRuntime(), Image: s.GetImage(), Digest: s.GetDigest(),
		State: s.GetState(), Stage: s.GetStage(), CreatedAt: timestamp(s.GetCreatedUnixNano()),
		Network: s.GetNetwork(), Address: s.GetAddress(), CPUs: s.GetCpus(),
		MemoryBytes: s.GetMemoryBytes(), MemoryLimitBytes: s.GetMemoryLimitBytes(),
		PIDs: s.GetPids(), PIDsLimit: s.GetPidsLimit(),
		ScratchUsedBytes: s.GetScratchUsedBytes(), ScratchBytes: s.GetScratchBytes(),
		HandleID: s.GetHandleId(), Steps: []stepJSON{},
	}
	for _, step := range s.GetSteps() {
		out.Steps = append(out.Steps, stepJSON{step.GetName(), time.Duration(step.GetNanoseconds()).Seconds()})
	}
	if m := s.GetMachine(); m != nil {
		out.Machine = &machineJSON{m.GetVcpus(), m.GetMemoryBytes(), m.GetAccelerator(), m.GetKernel()}
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
	sandboxes, err := service.List(ctx)
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
			jobName(s), s.GetId(), orDash(s.GetIsolation()), orDash(s.GetRuntime()), cpus(s), bytesize.Format(s.GetMemoryBytes()),
			s.GetImage(), orDash(s.GetStage()), s.GetState(),
			age(time.Since(time.Unix(0, s.GetCreatedUnixNano()))), orDash(s.GetProject()),
		})
	}
	return printTable(c.Root().Writer,
		[]string{"job", "sandbox", "isolation", "runtime", "cpus", "memory", "image", "stage", "state", "age", "project"}, rows)
}

// cpus are a sandbox's processors: a machine has whole ones, a container at most so many.
func cpus(s *api.SandboxInfo) string {
	switch {
	case s.GetMachine() != nil:
		return fmt.Sprintf("%d vCPU", s.GetMachine().GetVcpus())
	case s.GetCpus() == 0:
		return "-"
	default:
		return fmt.Sprintf("%g", s.GetCpus())
	}
}

// jobName is a sandbox's job id; what airlock run made belongs to no job.
func jobName(s *api.SandboxInfo) string {
	if s.GetJobId() == 0 {
		return "-"
	}
	return fmt.Sprint(s.GetJobId())
}
