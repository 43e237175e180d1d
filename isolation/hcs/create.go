package hcs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

const (
	// attempts is how often a sandbox is tried, each time with another scratch and another name.
	attempts = 2
	// defaultScratch is the size that the service gives every scratch, in bytes. It cannot be made smaller.
	defaultScratch = 20 << 30
)

// Create makes a sandbox: its scratch, at the process level mounted, its compute system, and the first process in it,
// whose end proves that there can be others.
func (r *Runtime) Create(ctx context.Context, spec isolation.Spec) (sandbox isolation.Sandbox, err error) {
	if err := r.checkSpec(spec); err != nil {
		return nil, err
	}
	if err := r.host.admit(); err != nil {
		return nil, err
	}
	defer r.host.locks.Lock(spec.ID)()
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	if err := r.host.claim(spec.ID, record{Level: r.level, ScratchDir: spec.ScratchDir}); err != nil {
		return nil, fault.Systemf("making sandbox %s: %w", spec.ID, err)
	}
	undo.Push(func() error { return r.host.remove(spec.ID) })
	made, err := r.make(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("making sandbox %s: %w", spec.ID, err)
	}
	undo.Release()
	return made, nil
}

// make tries until a sandbox stands. Its caller removes what it leaves when it fails.
func (r *Runtime) make(ctx context.Context, spec isolation.Spec) (*sandbox, error) {
	if err := os.Mkdir(scriptsOf(spec.ScratchDir), 0o700); err != nil {
		return nil, fault.Systemf("preparing the scratch directory: %w", err)
	}
	for attempt := 1; ; attempt++ {
		made, err := r.attempt(ctx, spec, layerName(spec.ID, attempt))
		if err == nil || !again(err) || attempt == attempts || ctx.Err() != nil {
			return made, err
		}
		r.host.log.Warn().Str("sandbox", spec.ID).Err(err).Msg("the compute service failed in a way that may pass: trying again with a fresh scratch")
	}
}

// attempt makes a sandbox under a name of its own. When it fails its compute system is gone, or in quarantine; its
// scratch is left to the caller.
func (r *Runtime) attempt(ctx context.Context, spec isolation.Spec, name string) (made *sandbox, err error) {
	h, layer := r.host, filepath.Join(spec.ScratchDir, name)
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	volume, err := r.prepareScratch(ctx, spec, layer)
	if err != nil {
		return nil, err
	}
	document, err := r.describe(spec, layer, volume)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	container, err := h.create(name, document)
	if err != nil {
		return nil, err
	}
	undo.Push(func() error { return h.end(name, container) })
	if err := failpoint.Hit("sandbox/created"); err != nil {
		return nil, err
	}
	if err := h.start(name, container); err != nil {
		return nil, r.explainStart(spec, err)
	}
	if err := failpoint.Hit("sandbox/launched"); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	made = newSandbox(r, spec, name, container)
	if err := made.setUp(ctx, spec); err != nil {
		return nil, err
	}
	undo.Release()
	return made, nil
}

// prepareScratch makes the scratch layer and, at the process level, mounts it and returns its volume. The scratch of a
// virtual machine is mounted by the machine, and never here: not before it, nor after.
func (r *Runtime) prepareScratch(ctx context.Context, spec isolation.Spec, layer string) (volume string, err error) {
	h := r.host
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	for _, dir := range spec.Image.Layers {
		if _, err := os.Stat(dir); err != nil {
			return "", fault.Systemf("a layer of the image is missing: %w", err)
		}
	}
	err = h.do("making a scratch layer", func() error { return h.compute.CreateScratch(layer, spec.Image.Layers) })
	if err != nil {
		return "", fault.Systemf("making the scratch layer: %w", err)
	}
	if err := failpoint.Hit("sandbox/scratch-made"); err != nil {
		return "", err
	}
	if size := spec.Limits.Scratch; size > defaultScratch {
		if err := h.do("sizing a scratch layer", func() error { return h.compute.ExpandScratch(layer, size) }); err != nil {
			return "", fault.Systemf("giving the scratch layer %d bytes: %w", size, err)
		}
	}
	if r.level != isolation.ProcessLevel {
		return "", nil
	}
	if volume, err = h.mount(ctx, layer, spec.Image.Layers); err != nil {
		return "", r.explainMount(spec, err)
	}
	return volume, failpoint.Hit("sandbox/mounted")
}

// create makes the compute system. One that comes into being after we gave up is ended at once.
func (h *Host) create(name string, document Document) (system, error) {
	made, err := bounded(h, h.timing.create, "creating "+name,
		func() (system, error) { return h.compute.Create(name, document) },
		func(late system) {
			if err := h.end(name, late); err != nil {
				h.log.Error().Str("system", name).Err(err).Msg("a container that came too late did not end")
			}
		})
	switch {
	case errors.Is(err, errNoAnswer):
		return nil, errFresh{fault.Systemf("creating the container: %w", err)}
	case err != nil:
		return nil, fault.Systemf("creating the container: %w", err)
	}
	return made, nil
}

// start starts a compute system. A start whose end the service never tells is known; the container is then ended by
// the caller, as hcsshim does not, and another one may do.
func (h *Host) start(name string, container system) error {
	_, err := bounded(h, h.timing.start, "starting "+name, func() (struct{}, error) { return struct{}{}, container.Start() }, nil)
	if errors.Is(err, errNoAnswer) {
		return errFresh{fault.Systemf("starting the container: %w", err)}
	}
	return err
}

// explainStart says what is known about a container that does not start.
func (r *Runtime) explainStart(spec isolation.Spec, err error) error {
	if hasCode(err, codeUnexpectedExit) {
		return fault.WithRemedy(fault.Systemf("the container ended while it was starting (%s on a host of %s): %w",
			imageVersion(spec), r.host.opts.Host, err),
			"that means too little memory, or an image that does not go with this host: raise memory, update the host, or use another image")
	}
	if again(err) {
		return err
	}
	return fault.Systemf("starting the container: %w", err)
}

// explainMount names, for a code that has several causes, all of them.
func (r *Runtime) explainMount(spec isolation.Spec, err error) error {
	if hasCode(err, codeSharing) {
		return fault.WithRemedy(fault.Systemf("mounting the scratch (%s on a host of %s): %w", imageVersion(spec), r.host.opts.Host, err),
			"a virus scanner or another file system filter holds it, an earlier mount was left, or the image's update is not the host's: "+
				"exclude Airlock's directories from scanning, restart the host, or update host and image")
	}
	if again(err) {
		return err
	}
	return fault.Systemf("mounting the scratch: %w", err)
}

func imageVersion(spec isolation.Spec) string {
	if spec.Image.Config.OSVersion == "" {
		return "an image of unknown build"
	}
	return "an image of " + spec.Image.Config.OSVersion
}
