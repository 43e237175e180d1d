package hcs

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Runtime makes sandboxes of one level: an isolation.Runtime. Both runtimes of a host share its Host.
type Runtime struct {
	host  *Host
	level isolation.Level
}

var (
	_ isolation.Runtime = (*Runtime)(nil)
	_ isolation.Fitter  = (*Runtime)(nil)
)

// Runtime returns the host's runtime of a level.
func (h *Host) Runtime(level isolation.Level) *Runtime { return &Runtime{host: h, level: level} }

// Name is what the job log calls the kind of container.
func (r *Runtime) Name() string {
	if r.level == isolation.HypervisorLevel {
		return "Hyper-V"
	}
	return "Windows Server Container"
}

// Level is the runtime's.
func (r *Runtime) Level() isolation.Level { return r.level }

// Needs says that the Host Compute Service takes directories and endpoints at both levels; only a virtual machine may not
// write to a directory of the host.
func (r *Runtime) Needs() isolation.Needs {
	return isolation.Needs{
		Root: isolation.RootLayers, Scratch: isolation.ScratchDirectory, Network: isolation.NetworkEndpoint,
		HostDirectories: r.level == isolation.ProcessLevel,
	}
}

// Fits reports whether an image can run at this level on this host.
func (r *Runtime) Fits(image isolation.ImageConfig) (fits bool, reason string) {
	return Fits(r.level, r.host.opts.Host, image.OSVersion)
}

// Close is the Host's.
func (r *Runtime) Close() error { return r.host.Close() }

// List returns the ids of all sandboxes of this level that left a mark, sorted: a record, or a compute system that no
// record speaks of. It also gives what is in the trash another try.
func (r *Runtime) List(context.Context) ([]string, error) {
	h := r.host
	recorded, err := h.records()
	if err != nil {
		return nil, fault.Systemf("listing sandboxes: %w", err)
	}
	var ids []string
	for id, level := range recorded {
		if level == r.level || level == 0 {
			ids = append(ids, id)
		}
	}
	names, err := h.systems()
	if err != nil {
		return nil, fault.Systemf("listing compute systems: %w", err)
	}
	for _, name := range names {
		id := idOf(name)
		if _, known := recorded[id]; id != "" && !known {
			ids = append(ids, id)
		}
	}
	h.emptyTrash()
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// systems returns the names of our compute systems.
func (h *Host) systems() ([]string, error) {
	return bounded(h, h.timing.call, "listing compute systems", func() ([]string, error) {
		return h.compute.Systems(owner)
	}, nil)
}

// Destroy removes whatever is left of a sandbox. What is stuck in the compute service stays in quarantine, with its
// scratch: that is an error, and another try may do.
func (r *Runtime) Destroy(_ context.Context, id string) error {
	if !isolation.ValidID(id) {
		return fault.Systemf("destroying a sandbox: %q is no sandbox id", id)
	}
	defer r.host.locks.Lock(id)()
	return r.host.remove(id)
}

// checkSpec refuses what would end somewhere else than meant.
func (r *Runtime) checkSpec(spec isolation.Spec) error {
	switch {
	case !isolation.ValidID(spec.ID):
		return fault.Systemf("making a sandbox: %q is no sandbox id", spec.ID)
	case !filepath.IsAbs(spec.ScratchDir):
		return fault.Systemf("making sandbox %s: the scratch directory %q is not an absolute path", spec.ID, spec.ScratchDir)
	case len(spec.Image.Layers) == 0:
		return fault.Authorf("the image has no layers, so there is nothing in it to run")
	case !r.Needs().HostDirectories && spec.CacheDir != "":
		return fault.Systemf("making sandbox %s: no directory of the host may be written to from a virtual machine", spec.ID)
	}
	if fits, reason := r.Fits(spec.Image.Config); !fits {
		return fault.WithRemedy(fault.Authorf("the image cannot run at level %s here: %s", r.level, reason),
			"use an image for this host's version of Windows")
	}
	for _, line := range spec.Network.Hosts {
		if !hostsLine.MatchString(line) {
			return fault.Adminf("%q cannot stand in a hosts file", line)
		}
	}
	return nil
}

// errFresh marks an error after which everything has to be made anew, under other names, and may then work.
type errFresh struct{ error }

func (e errFresh) Unwrap() error { return e.error }

func again(err error) bool {
	var fresh errFresh
	return errors.As(err, &fresh)
}
