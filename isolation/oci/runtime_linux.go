package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/keylock"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// Options is what a Runtime needs to know about its host.
type Options struct {
	// Runtime is "crun", "runc", "runsc" (gVisor) or the absolute path of one of them. Empty: crun, else runc.
	Runtime string
	// AgentPath is the host path of the airlock-agent binary, linked statically.
	AgentPath string
	// RunDir keeps what lives as long as a sandbox: bundles and the OCI runtime's state. Made when missing.
	RunDir string
	// CgroupParent is the cgroup below which every sandbox has its own, seen from the root of the hierarchy.
	CgroupParent string
	// Logger receives what a sandbox's caller cannot be told.
	Logger zerolog.Logger
}

// Runtime makes sandboxes of the process level: an isolation.Runtime.
type Runtime struct {
	program   program
	agentPath string
	stateDir  string // the OCI runtime's own state, a directory per sandbox
	bundleDir string // our bundles, a directory per sandbox
	shellDir  string // the helper root's upper-most layer, shared
	aliasDir  string // and its lowest
	cgroups   cgroup.Tree
	profile   profile
	filter    compiledFilter
	logger    zerolog.Logger
	locks     keylock.Locks
}

var _ isolation.Runtime = (*Runtime)(nil)

// removalTimeout bounds the removal of one sandbox. Processes in uninterruptible sleep and kernels that are
// slow to release a cgroup decide how long it takes; a second is usual for the worst of them.
const removalTimeout = 30 * time.Second

// New checks the host and returns a Runtime. Its errors are of class admin and name the remedy.
func New(options Options) (*Runtime, error) {
	if err := checkHost(options); err != nil {
		return nil, err
	}
	program, err := findProgram(options.Runtime)
	if err != nil {
		return nil, err
	}
	groups, err := cgroup.New(options.CgroupParent)
	if err != nil {
		return nil, err
	}
	profile, err := newProfile()
	if err != nil {
		return nil, err
	}
	r := &Runtime{
		program:   program,
		agentPath: options.AgentPath,
		stateDir:  filepath.Join(options.RunDir, "state"),
		bundleDir: filepath.Join(options.RunDir, "bundles"),
		shellDir:  filepath.Join(options.RunDir, "helper"),
		aliasDir:  filepath.Join(options.RunDir, "helper-alias"),
		cgroups:   groups,
		profile:   profile,
		logger:    options.Logger,
	}
	for _, dir := range []string{r.stateDir, r.bundleDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fault.Adminf("making the run directory: %w", err)
		}
	}
	if err := layout.MakeHelperShell(r.shellDir); err != nil {
		return nil, fault.Adminf("making the helper root's mount points: %w", err)
	}
	if err := layout.MakeHelperAlias(r.aliasDir); err != nil {
		return nil, fault.Adminf("making the helper root's lowest layer: %w", err)
	}
	return r, nil
}

// checkHost refuses hosts and options that cannot work.
func checkHost(options Options) error {
	if os.Geteuid() != 0 {
		return fault.WithRemedy(fault.Adminf("containers need root, this process has uid %d", os.Geteuid()),
			"run airlock serve as root")
	}
	if major, minor := kernelVersion(); major < 5 || major == 5 && minor < 10 {
		return fault.WithRemedy(fault.Adminf("Linux %d.%d is too old for the process level: %w", major, minor, isolation.ErrUnsupported),
			"use Linux 5.10 or newer")
	}
	if !filepath.IsAbs(options.RunDir) {
		return fault.Adminf("the run directory %q is not an absolute path", options.RunDir)
	}
	info, err := os.Stat(options.AgentPath)
	if err != nil || !filepath.IsAbs(options.AgentPath) || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fault.WithRemedy(fault.Adminf("the agent %q is not an executable file at an absolute path", options.AgentPath),
			"install airlock-agent beside airlock-executor")
	}
	return nil
}

func kernelVersion() (major, minor int) {
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	}
	return major, minor
}

// Name is "crun", "runc" or "runsc": the base name of the program.
func (r *Runtime) Name() string { return r.program.name }

// Level is isolation.ProcessLevel.
func (r *Runtime) Level() isolation.Level { return isolation.ProcessLevel }

// Needs says that a container is made of directories, in a network namespace that is there.
func (r *Runtime) Needs() isolation.Needs {
	return isolation.Needs{
		Root: isolation.RootLayers, Scratch: isolation.ScratchDirectory, Network: isolation.NetworkNamespace, HostDirectories: true,
	}
}

// List returns the ids of all sandboxes that left a mark on this host, sorted: a bundle, the OCI runtime's state
// or a cgroup.
func (r *Runtime) List(context.Context) ([]string, error) {
	return r.cgroups.Sandboxes(r.stateDir, r.bundleDir)
}

// Close gives back what New and the first sandboxes made on the host: the parent cgroup, if no sandbox is left
// in it. Sandboxes that still live are not touched.
func (r *Runtime) Close() error { return r.cgroups.RemoveParents() }
