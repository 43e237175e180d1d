package microvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/keylock"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
)

// Options is what a Runtime needs to know about its host.
type Options struct {
	// QEMU is the emulator's absolute path, or a name that PATH is searched for; default qemu-system-x86_64.
	QEMU string
	// Kernel is "auto", the default, or the path of a kernel: a bzImage or an uncompressed ELF file. Auto takes the
	// newest of a distribution's kernels for cloud machines, else its newest one.
	Kernel string
	// KernelDir is where kernels and modules are looked for: boot/vmlinuz-VERSION and lib/modules/VERSION
	// below it; default "/". An extracted distribution package is such a directory.
	KernelDir string
	// Accelerator is "auto", the default, "kvm" or "tcg".
	Accelerator Accelerator
	// AllowEmulation lets auto choose tcg, which interprets: several times slower than the processor.
	AllowEmulation bool
	// NoTemplates boots every machine. Clones of a template start in a tenth of the time, but what their kernels drew at
	// random at boot (stack canaries, hash seeds) is the same in all of them.
	NoTemplates bool
	// Pool is how many clones of each template that Warm asked for are kept waiting, so that a sandbox need not wait for one.
	// Each takes the memory of an idle machine.
	Pool int
	// NoWarmUp keeps waiting machines from warming up a sandbox's start, which only emulated ones do: it makes them
	// several times faster, and larger by some 30 MiB.
	NoWarmUp bool
	// AgentPath is the host path of the airlock-agent binary, linked statically.
	AgentPath string
	// StateDir keeps what is made once and found again by its content: kernels, initramfs, templates. RunDir keeps
	// what lives as long as a sandbox. Both are made when missing.
	StateDir, RunDir string
	// CgroupParent is the cgroup below which every sandbox has its own, seen from the root of the hierarchy.
	CgroupParent string
	// Logger receives what a sandbox's caller cannot be told.
	Logger zerolog.Logger
}

// Runtime makes sandboxes of the hypervisor level: an isolation.Runtime.
type Runtime struct {
	options   Options
	machines  string // a directory per sandbox, which marks that it exists
	boots     string // kernels and initramfs, the one directory that QEMU sees
	cgroups   cgroup.Tree
	templates templates
	pool      pool
	locks     keylock.Locks
	logger    zerolog.Logger

	// probing is held for the seconds that finding the accelerator may take, mutex for moments.
	probing sync.Mutex
	mutex   sync.Mutex
	jail    *jail
	boot    *boot
	accel   Accelerator // empty until it is known
	// processor is what guests get, asked for once.
	processor struct {
		sync.Mutex
		variant string
	}

	// warmUpMu is held while disks are made, by machines of the pool.
	warmUpMu sync.Mutex
	disks    *warmUpDisks
}

var _ isolation.Runtime = (*Runtime)(nil)

// removalTimeout bounds the removal of one sandbox.
const removalTimeout = 30 * time.Second

// New checks the host and returns a Runtime. Its errors are of class admin and name the remedy. What takes time, the
// choice of the accelerator, the kernel and the templates, is left to Probe and to the first sandboxes.
func New(options Options) (*Runtime, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	groups, err := cgroup.New(options.CgroupParent)
	if err != nil {
		return nil, err
	}
	r := &Runtime{
		options:  options,
		machines: filepath.Join(options.RunDir, "machines"),
		boots:    filepath.Join(options.StateDir, "boot"),
		cgroups:  groups,
		logger:   options.Logger,
	}
	r.templates.dir = filepath.Join(options.StateDir, "templates")
	for dir, mode := range map[string]fs.FileMode{r.machines: 0o700, filepath.Join(options.RunDir, "jail"): 0o700, r.templates.dir: 0o700, r.boots: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, fault.Adminf("making a directory for virtual machines: %w", err)
		}
	}
	return r, nil
}

// complete fills in defaults and refuses what cannot work.
func (o Options) complete() (Options, error) {
	if os.Geteuid() != 0 {
		return o, fault.WithRemedy(fault.Adminf("virtual machines need root, this process has uid %d", os.Geteuid()),
			"run airlock serve as root")
	}
	for _, d := range []struct {
		value *string
		dflt  string
	}{{&o.QEMU, "qemu-system-x86_64"}, {&o.Kernel, "auto"}, {&o.KernelDir, "/"}} {
		if *d.value == "" {
			*d.value = d.dflt
		}
	}
	if o.Accelerator == "" {
		o.Accelerator = Auto
	}
	if !slices.Contains([]Accelerator{Auto, KVM, TCG}, o.Accelerator) {
		return o, fault.Adminf("unknown accelerator %q: use \"auto\", \"kvm\" or \"tcg\"", o.Accelerator)
	}
	path, err := exec.LookPath(o.QEMU)
	if err != nil || !filepath.IsAbs(path) {
		return o, fault.WithRemedy(fault.Adminf("no QEMU: %q is not an executable: %w", o.QEMU, isolation.ErrUnsupported),
			"install the package qemu-system-x86, or set qemu to the path of the emulator")
	}
	if o.QEMU, err = filepath.EvalSymlinks(path); err != nil {
		return o, fault.Adminf("looking for QEMU: %w", err)
	}
	for _, dir := range []string{o.StateDir, o.RunDir} {
		if !filepath.IsAbs(dir) {
			return o, fault.Adminf("the directory %q is not an absolute path", dir)
		}
	}
	info, err := os.Stat(o.AgentPath)
	if err != nil || !filepath.IsAbs(o.AgentPath) || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return o, fault.WithRemedy(fault.Adminf("the agent %q is not an executable file at an absolute path", o.AgentPath),
			"install airlock-agent beside airlock-executor")
	}
	return o, nil
}

// Name is "qemu-kvm" or "qemu-tcg", and "qemu" as long as the accelerator is not known.
func (r *Runtime) Name() string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.accel == "" {
		return "qemu"
	}
	return "qemu-" + string(r.accel)
}

// Level is isolation.HypervisorLevel.
func (r *Runtime) Level() isolation.Level { return isolation.HypervisorLevel }

// Needs says that a guest has disks and a tap, and no directory of the host.
func (r *Runtime) Needs() isolation.Needs {
	return isolation.Needs{Root: isolation.RootDisk, Scratch: isolation.ScratchDisk, Network: isolation.NetworkTap}
}

// List returns the ids of all sandboxes that left a mark on this host, sorted: a directory or a cgroup.
func (r *Runtime) List(context.Context) ([]string, error) {
	return r.cgroups.Sandboxes(r.machines)
}

// Destroy removes what is left of a sandbox. The disks and the tap are the caller's and stay.
func (r *Runtime) Destroy(ctx context.Context, id string) error {
	if !isolation.ValidID(id) {
		return fault.Systemf("destroying a sandbox: %q is no sandbox id", id)
	}
	defer r.locks.Lock(id)()
	return r.remove(ctx, id)
}

// remove is Destroy with the lock held. It is not cancelled with ctx: what it leaves behind, the reaper would
// have to find.
func (r *Runtime) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), removalTimeout,
		fmt.Errorf("it took longer than %s", removalTimeout))
	defer cancel()
	if err := r.clear(ctx, id); err != nil {
		return fault.Systemf("destroying sandbox %s: %w", id, err)
	}
	return nil
}

// clear removes what marks a sandbox on the host, after what holds it.
func (r *Runtime) clear(ctx context.Context, id string) error {
	if err := r.cgroups.KillAll(ctx, id); err != nil {
		return err
	}
	if err := r.cgroups.Remove(ctx, id); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(r.machines, id)) // the mark goes last
}

// Close gives back what New and the first sandboxes made in this process and on the host. Sandboxes that still live
// are not touched.
func (r *Runtime) Close() error {
	r.pool.close()
	r.templates.close()
	if r.disks != nil { // the pool is closed: nobody makes them now
		_ = errors.Join(r.disks.image.Close(), r.disks.scratch.Close())
	}
	r.mutex.Lock()
	if r.jail != nil {
		r.jail.close()
	}
	r.mutex.Unlock()
	return r.cgroups.RemoveParents()
}
