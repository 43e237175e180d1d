package microvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// probeTimeout is how long a probe may take to boot. A working KVM takes less than a second; a broken one hangs at the
// guest's first instruction, for ever.
var probeTimeout = map[Accelerator]time.Duration{KVM: 10 * time.Second, TCG: time.Minute}

// verdict is what is remembered of probing, until the host boots again or QEMU changes.
type verdict struct {
	BootID      string      `json:"boot_id"`
	QEMU        string      `json:"qemu"`
	Accelerator Accelerator `json:"accelerator"`
	// KVMFailure says why it is not KVM.
	KVMFailure string `json:"kvm_failure,omitempty"`
}

// Probe returns the accelerator that this host's machines use. What decides is a machine that boots: the first call
// after each boot of the host takes some seconds, all later ones no time. Without one that works and is allowed it
// fails with a system failure that wraps isolation.ErrUnsupported.
func (r *Runtime) Probe(ctx context.Context) (Accelerator, error) {
	if known := r.accelerator(); known != "" {
		return known, nil
	}
	r.probing.Lock()
	defer r.probing.Unlock()
	if known := r.accelerator(); known != "" {
		return known, nil
	}
	if err := r.prepare(); err != nil {
		return "", err
	}
	accel, err := r.choose(ctx)
	if err != nil {
		return "", err
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.accel = accel
	return accel, nil
}

// choose returns the accelerator that is configured, or remembered, or found by booting.
func (r *Runtime) choose(ctx context.Context) (Accelerator, error) {
	if r.options.Accelerator != Auto {
		return r.options.Accelerator, nil
	}
	v, err := r.recall()
	if err != nil {
		return "", err
	}
	if v.Accelerator == "" {
		if err := r.tryBoot(ctx, KVM); err == nil {
			v.Accelerator = KVM
		} else if ctx.Err() != nil {
			return "", context.Cause(ctx)
		} else {
			v.Accelerator, v.KVMFailure = TCG, err.Error()
			r.logger.Warn().Err(err).Msg("KVM does not work on this host")
		}
		if err := r.remember(v); err != nil {
			return "", err
		}
	}
	if v.Accelerator == TCG && !r.options.AllowEmulation {
		return "", fault.WithRemedy(
			fault.Systemf("virtual machines cannot run on this host: KVM does not work (%s): %w", v.KVMFailure, isolation.ErrUnsupported),
			"enable (nested) virtualisation on this host, or set allow_emulation = true, which is several times slower")
	}
	return v.Accelerator, nil
}

// prepare makes what every machine needs, once. The caller holds probing.
func (r *Runtime) prepare() error {
	if r.booted() == nil {
		made, err := prepareBoot(r.options, r.boots)
		if err != nil {
			return err
		}
		r.mutex.Lock()
		r.boot = made
		r.mutex.Unlock()
	}
	if r.jailed() == nil {
		if err := checkUserNamespaces(userNamespaces); err != nil {
			return err
		}
		made, err := newJail(filepath.Join(r.options.RunDir, "jail"), r.options.QEMU, r.boots)
		if err != nil {
			return fault.Systemf("%w", err)
		}
		r.mutex.Lock()
		r.jail = made
		r.mutex.Unlock()
	}
	return nil
}

func (r *Runtime) accelerator() Accelerator { r.mutex.Lock(); defer r.mutex.Unlock(); return r.accel }
func (r *Runtime) booted() *boot            { r.mutex.Lock(); defer r.mutex.Unlock(); return r.boot }
func (r *Runtime) jailed() *jail            { r.mutex.Lock(); defer r.mutex.Unlock(); return r.jail }

// tryBoot boots a machine without disks until its agent waits.
func (r *Runtime) tryBoot(ctx context.Context, accel Accelerator) error {
	if _, err := os.Stat("/dev/kvm"); accel == KVM && err != nil {
		return err
	}
	limit := probeTimeout[accel]
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("a machine did not boot within %s", limit))
	defer cancel()
	m := machine{accel: accel, shape: shape{2 * minMemory, 1, false}, boot: r.booted()}
	v, err := startVM(r.jailed(), "probe", m, &descriptors{})
	if err != nil {
		return err
	}
	defer v.kill()
	if err := agent.AwaitGuest(ctx, v.agent); err != nil {
		return v.explain(ctx, err)
	}
	return nil
}

// recall returns what is remembered and still true; the accelerator is empty if nothing is.
func (r *Runtime) recall() (verdict, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return verdict{}, fault.Systemf("reading the host's boot id: %w", err)
	}
	program, err := fingerprint(r.options.QEMU)
	if err != nil {
		return verdict{}, fault.Systemf("looking at QEMU: %w", err)
	}
	now := verdict{BootID: strings.TrimSpace(string(id)), QEMU: program}
	content, err := os.ReadFile(r.verdictPath())
	if err != nil {
		return now, nil
	}
	var past verdict
	if json.Unmarshal(content, &past) != nil || past.BootID != now.BootID || past.QEMU != now.QEMU {
		return now, nil
	}
	return past, nil
}

func (r *Runtime) remember(v verdict) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	temporary := r.verdictPath() + ".new"
	if err := errors.Join(os.WriteFile(temporary, content, 0o600), os.Rename(temporary, r.verdictPath())); err != nil {
		return fault.Systemf("remembering which accelerator works: %w", err)
	}
	return nil
}

func (r *Runtime) verdictPath() string { return filepath.Join(r.options.StateDir, "accelerator.json") }

// fingerprint changes when a program does: another file, another size, another time.
func fingerprint(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", path, info.Size(), info.ModTime().UnixNano()))
	return hex.EncodeToString(sum[:8]), nil
}
