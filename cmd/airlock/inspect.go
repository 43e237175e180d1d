package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/bytesize"
)

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "describe one living sandbox",
		ArgsUsage: "JOB",
		Description: "JOB is a job id or a sandbox id. Shows what the sandbox is, why, what it may use and uses now, and how\n" +
			"long each step of making it took.",
		Flags:  []cli.Flag{jsonFlag()},
		Action: inspectSandbox,
	}
}

func inspectSandbox(ctx context.Context, c *cli.Command) error {
	service, args, err := connect(ctx, c, 1, 1)
	if err != nil {
		return err
	}
	defer service.Close()
	s, err := api.Ask(ctx, service, api.InspectOne, api.InspectRequest{Job: args[0]})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.Root().Writer, newSandboxJSON(s))
	}
	return printTable(c.Root().Writer, []string{"property", "value"}, sandboxRows(s))
}

func sandboxRows(s *api.SandboxInfo) [][]string {
	created := time.Unix(0, s.CreatedUnixNano)
	return [][]string{
		{"sandbox", s.ID},
		{"job", jobName(s)},
		{"project", orDash(s.Project)},
		{"isolation", fmt.Sprintf("%s, by %s (%s)", s.Isolation, orDash(s.Runtime), orDash(s.Reason))},
		{"policy", policyOf(s)},
		{"image", s.Image},
		{"digest", orDash(s.Digest)},
		{"state", s.State},
		{"stage", orDash(s.Stage)},
		{"created", created.Local().Format(time.DateTime) + ", " + age(time.Since(created)) + " ago"},
		{"network", strings.TrimSpace(s.Network + " " + s.Address)},
		{"memory", use(bytesize.Format(s.MemoryBytes), s.MemoryLimitBytes, bytesize.Format)},
		{"processes", use(fmt.Sprint(s.PIDs), s.PIDsLimit, func(n int64) string { return fmt.Sprint(n) })},
		{"scratch", use(bytesize.Format(s.ScratchUsedBytes), s.ScratchBytes, bytesize.Format)},
		{"cpus", cpuLimit(s.CPUs)},
		{"machine", machine(s.Machine)},
		{"steps", steps(s.Steps)},
	}
}

// policyOf is the rule that decided, and of which policy.
func policyOf(s *api.SandboxInfo) string {
	if s.Rule == "" {
		return "-"
	}
	return fmt.Sprintf("rule %s of %s", s.Rule, s.Policy)
}

// use is how much of a limit is used.
func use(used string, limit int64, format func(int64) string) string {
	if limit == 0 {
		return used + ", no limit"
	}
	return used + " of " + format(limit)
}

func cpuLimit(cpus float64) string {
	if cpus == 0 {
		return "no limit"
	}
	return fmt.Sprintf("at most %g", cpus)
}

// machine describes a virtual machine: "2 vCPUs and 512 MiB by kvm, kernel 6.1.0-56-cloud-amd64".
func machine(m *api.Machine) string {
	if m == nil {
		return "none: it shares the host's kernel"
	}
	return fmt.Sprintf("%d vCPUs and %s by %s, kernel %s", m.VCPUs, bytesize.Format(m.MemoryBytes), m.Accelerator, m.Kernel)
}

// steps are the timed steps of making a sandbox: "base 120ms, network 3ms".
func steps(steps []*api.Step) string {
	parts := make([]string, 0, len(steps))
	for _, s := range steps {
		parts = append(parts, s.Name+" "+rounded(time.Duration(s.Nanoseconds)).String())
	}
	return orDash(strings.Join(parts, ", "))
}

// rounded is d without the digits that nobody reads.
func rounded(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond)
	default:
		return d.Round(time.Microsecond)
	}
}
