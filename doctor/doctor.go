// Package doctor says what this host can run: it looks at the kernel, the tools, the network, the disks and the
// configuration, and for everything amiss it names the remedy.
//
// Its checks need no running service and leave nothing behind: what must be tried (an overlay mount, a veth
// pair, an nftables table) is tried in namespaces that die with the check. Its caller is cmd/airlock.
package doctor

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/private"
	"github.com/airlock-ci/airlock/supervisor"
)

// Status is what a finding means for the host.
type Status string

// The statuses, from harmless to not. Info is a fact that needs no judgement.
const (
	Info Status = "info"
	OK   Status = "ok"
	// Warn is something that some jobs, or the service later, may stumble over.
	Warn Status = "warn"
	// Fail is something without which jobs cannot run.
	Fail Status = "fail"
)

// Finding is the outcome of one check. Its field names in JSON are a promise to scripts.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	// Remedy is one sentence that says what to do; every Warn and Fail has one.
	Remedy string `json:"remedy,omitempty"`
}

// Options say what to look at.
type Options struct {
	// ConfigPath is the configuration file; empty means config.DefaultPath.
	ConfigPath string
	// Socket is where the service should answer; empty means where the configuration says.
	Socket string
	// BinDir is the directory of the airlock binary: the other three are looked for there, then in PATH.
	BinDir string
	// Version is the airlock binary's own.
	Version string
}

// Run makes all checks of this operating system, in a fixed order. It needs root for some of them and says so
// where it has to leave one out.
func Run(ctx context.Context, options Options) []Finding {
	r := &report{}
	if options.ConfigPath == "" {
		options.ConfigPath = config.DefaultPath
	}
	cfg := checkConfig(r, options.ConfigPath)
	if options.Socket == "" {
		options.Socket = supervisor.DefaultSocket(cfg.RunDir)
	}
	checkHost(ctx, r, options, cfg)
	checkBinaries(ctx, r, options)
	checkService(ctx, r, options)
	return r.findings
}

// Failed reports whether a finding is a Fail.
func Failed(findings []Finding) bool {
	for _, f := range findings {
		if f.Status == Fail {
			return true
		}
	}
	return false
}

// report collects findings.
type report struct{ findings []Finding }

func (r *report) info(check, format string, args ...any) {
	r.findings = append(r.findings, Finding{check, Info, fmt.Sprintf(format, args...), ""})
}

func (r *report) ok(check, format string, args ...any) {
	r.findings = append(r.findings, Finding{check, OK, fmt.Sprintf(format, args...), ""})
}

func (r *report) warn(check, remedy, format string, args ...any) {
	r.findings = append(r.findings, Finding{check, Warn, fmt.Sprintf(format, args...), remedy})
}

func (r *report) fail(check, remedy, format string, args ...any) {
	r.findings = append(r.findings, Finding{check, Fail, fmt.Sprintf(format, args...), remedy})
}

// checkConfig loads the configuration; the other checks look at the defaults when it cannot be used.
func checkConfig(r *report, path string) *config.Config {
	const check = "configuration"
	cfg, err := config.Load(path)
	if err != nil {
		r.fail(check, "correct it until airlock config check is content; airlock config example prints one to start from",
			"%s", strings.ReplaceAll(err.Error(), "\n", " | "))
		return config.Default()
	}
	if _, err := os.Stat(path); err != nil {
		r.info(check, "there is no %s: the defaults hold", path)
		return cfg
	}
	if err := private.CheckServiceOwner(path); err != nil {
		r.fail(check, "give it to the administrators: the service refuses it else", "%s", err)
		return cfg
	}
	if cfg.Policy == nil {
		r.ok(check, "%s is valid, isolation is %s", path, cfg.Isolation)
		return cfg
	}
	r.ok(check, "%s is valid, its policy is %s", path, cfg.Policy.Digest())
	if n := len(cfg.Policy.Warnings); n > 0 {
		r.info(check, "the policy has %d warnings: airlock policy check %s", n, path)
	}
	return cfg
}
