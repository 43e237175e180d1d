package microvm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
	"github.com/airlock-ci/airlock/isolation/layout"
)

const (
	// bootTimeout bounds a boot from QEMU's start to a waiting agent. An emulated machine takes one to two seconds; a
	// loaded host several times that.
	bootTimeout = time.Minute
	// setupTimeout bounds what a guest does to become a sandbox.
	setupTimeout = 45 * time.Second
)

// Create makes a sandbox: a machine restored from the template of its shape, or booted while there is none, which
// its agent makes this sandbox.
func (r *Runtime) Create(ctx context.Context, spec isolation.Spec) (made isolation.Sandbox, err error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	if _, err := r.Probe(ctx); err != nil { // whatever it is, another host may have what this one lacks
		return nil, fault.Systemf("making sandbox %s: %w", spec.ID, err)
	}
	defer r.locks.Lock(spec.ID)()
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	if err := os.Mkdir(filepath.Join(r.machines, spec.ID), 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("there is a sandbox of that id already: %w", err)
		}
		return nil, fault.Systemf("making sandbox %s: %w", spec.ID, err)
	}
	undo.PushContext(func(ctx context.Context) error { return r.remove(ctx, spec.ID) })
	s, err := r.build(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("making sandbox %s: %w", spec.ID, err)
	}
	undo.Release()
	return s, nil
}

// checkSpec refuses what would end somewhere else than meant.
func checkSpec(spec isolation.Spec) error {
	switch {
	case !isolation.ValidID(spec.ID):
		return fault.Systemf("making a sandbox: %q is no sandbox id", spec.ID)
	case spec.Image.Disk == "":
		return fault.Systemf("making sandbox %s: the image has no disk", spec.ID)
	case spec.ScratchDisk == "":
		return fault.Systemf("making sandbox %s: there is no scratch disk", spec.ID)
	}
	return nil
}

// build does the work of Create; its caller removes what it leaves when it fails.
func (r *Runtime) build(ctx context.Context, spec isolation.Spec) (made *sandbox, err error) {
	shape := shapeOf(spec.Limits, spec.Network)
	if err := r.cgroups.Make(spec.ID, shape.hostLimits()); err != nil {
		return nil, fault.Systemf("limiting the machine: %w", err)
	}
	if err := failpoint.Hit("sandbox/mounted"); err != nil {
		return nil, err
	}
	setup, err := r.guestSetup(spec)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s, began := newSandbox(r, spec, shape), time.Now()
	defer r.fill(shape, raisePause)
	if err := r.startGuest(ctx, s, spec, shape, setup); err != nil {
		return nil, err
	}
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	undo.Push(func() error { s.vm.kill(); return nil })
	if err := failpoint.Hit("sandbox/launched"); err != nil {
		return nil, err
	}
	answered := time.Since(began)
	if s.agent, err = s.vm.connect(ctx, spec); err != nil {
		return nil, s.vm.explain(ctx, err)
	}
	if err := r.cgroups.LimitCPUs(spec.ID, spec.Limits.CPUs); err != nil {
		return nil, fault.Systemf("limiting the machine: %w", err)
	}
	undo.Release()
	r.logger.Debug().Str("sandbox", spec.ID).Bool("cloned", s.cloned).Bool("waited", s.waited).Dur("answered_ms", answered).Dur("ready_ms", time.Since(began)).Msg("machine started")
	go s.watch()
	return s, nil
}

// connect waits until the guest is the sandbox and its agent answers.
func (v *vm) connect(ctx context.Context, spec isolation.Spec) (*agent.Client, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, setupTimeout, fault.Systemf("the guest did not finish its setup within %s", setupTimeout))
	defer cancel()
	if err := agent.AwaitSetup(waiting, v.agent); err != nil {
		return nil, err
	}
	return agent.Connect(ctx, v.agent, agent.SetupOf(spec))
}

// startGuest starts the sandbox's machine and makes its guest this sandbox: one that waits, else a clone of the template,
// else a machine that is booted. What fails is thrown away, and the next of these serves instead.
func (r *Runtime) startGuest(ctx context.Context, s *sandbox, spec isolation.Spec, shape shape, setup agent.GuestSetup) error {
	if waited, err := r.adoptGuest(ctx, s, spec, shape, setup); waited {
		s.waited, s.cloned = err == nil, err == nil
		if !useless(ctx, err) {
			return err
		}
		r.logger.Warn().Str("sandbox", spec.ID).Err(err).Msg("a waiting machine was of no use: another one is made")
	}
	if t := r.template(shape); t != nil {
		err := r.restoreGuest(ctx, s, spec, t, setup)
		s.cloned = err == nil
		if !useless(ctx, err) {
			return err
		}
		r.logger.Warn().Str("sandbox", spec.ID).Err(err).Msg("a template could not be restored: it is thrown away, the machine is booted")
		r.templates.discard(t)
	}
	return r.bootGuest(ctx, s, spec, shape, setup)
}

func (r *Runtime) bootGuest(ctx context.Context, s *sandbox, spec isolation.Spec, shape shape, setup agent.GuestSetup) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fault.Systemf("the guest did not boot within %s", bootTimeout))
	defer cancel()
	memory, err := newMemory(shape.memory)
	if err != nil {
		return err
	}
	files := &descriptors{}
	m := machine{accel: r.accelerator(), shape: shape, boot: r.booted(), memory: files.add(memory), shared: true}
	if err := r.attach(&m, files, spec); err != nil {
		files.close()
		return err
	}
	v, err := startVM(r.jailed(), spec.ID, m, files)
	if err != nil {
		return err
	}
	s.take(v)
	return v.run(ctx,
		func() error { return r.cgroups.Add(spec.ID, v.command.Process.Pid) },
		func() error { _, err := v.monitor.run(capabilitiesCommand); return err },
		func() error { return agent.AwaitGuest(ctx, v.agent) },
		func() error { return v.tell(ctx, setup) })
}

// tell tells the guest what it is to become.
func (v *vm) tell(ctx context.Context, setup agent.GuestSetup) error {
	setup.Now = time.Now().UnixNano()
	return agent.TellGuest(ctx, v.agent, setup)
}

// explain puts the reason of a machine's end before an error that is only its consequence.
func (v *vm) explain(ctx context.Context, err error) error {
	var failure *fault.Error
	if errors.As(err, &failure) || !v.awaitEnd(ctx, time.Second) {
		return err
	}
	if why := v.whyEnded(); why != nil {
		return fmt.Errorf("%w (%w)", why, err)
	}
	return err
}

// attach opens the disks and the tap.
func (r *Runtime) attach(m *machine, files *descriptors, spec isolation.Spec) error {
	m.disks = map[string]int{}
	for _, serial := range diskOrder {
		file, size, err := openDisk(serial, spec)
		if err != nil {
			return err
		}
		if file != nil {
			m.disks[serial] = files.add(file)
		}
		if serial == agent.GuestScratch {
			m.writable = size
		}
	}
	if spec.Network.TapFile == nil {
		return nil
	}
	tap, err := duplicate(spec.Network.TapFile)
	if err != nil {
		return fault.Systemf("handing over the tap device %s: %w", spec.Network.Tap, err)
	}
	m.tap = files.add(tap)
	return nil
}

// openDisk opens a disk of the sandbox, and tells its size in bytes; nil if it has none of that kind. A scratch that is larger
// than the sandbox may use is cut: what is behind its end, no QEMU can write, map or allocate.
func openDisk(serial string, spec isolation.Spec) (*os.File, int64, error) {
	path, flags := spec.Image.Disk, os.O_RDONLY
	switch serial {
	case agent.GuestScratch:
		path, flags = spec.ScratchDisk, os.O_RDWR
	case agent.GuestHelper:
		if spec.Helper == nil {
			return nil, 0, nil
		}
		path = spec.Helper.Disk
	}
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, 0, fault.Systemf("opening the %s disk: %w", serial, err)
	}
	size, err := file.Seek(0, io.SeekEnd)
	if most := scratchSize(spec); err == nil && serial == agent.GuestScratch && most > 0 && size > most {
		size, err = most, file.Truncate(most)
	}
	if err != nil || size > placeholderDisk {
		return nil, 0, errors.Join(fault.Systemf("the %s disk has %d bytes, more than %d: %w", serial, size, int64(placeholderDisk), err), file.Close())
	}
	return file, size, nil
}

// scratchSize is how much of the scratch disk a sandbox may use, in bytes; 0 is all of it.
func scratchSize(spec isolation.Spec) int64 { return spec.Limits.Scratch / sector * sector }

// duplicate returns another descriptor of a file that stays its owner's.
func duplicate(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// guestSetup is what the guest is told, but for the clock.
func (r *Runtime) guestSetup(spec isolation.Spec) (agent.GuestSetup, error) {
	random := make([]byte, agent.GuestEntropy+16)
	if _, err := rand.Read(random); err != nil {
		return agent.GuestSetup{}, fault.Systemf("reading random bytes: %w", err)
	}
	setup := agent.GuestSetup{
		Entropy: random[:agent.GuestEntropy], MachineID: hex.EncodeToString(random[agent.GuestEntropy:]),
		Hostname: spec.Hostname, Helper: spec.Helper != nil, Files: layout.NamesFiles(spec), PIDs: spec.Limits.PIDs,
	}
	if n := spec.Network; n.TapFile != nil {
		setup.Network = &agent.GuestNetwork{MAC: n.MAC, Address: n.Address, Gateway: n.Gateway, MTU: n.MTU}
	}
	return setup, nil
}
