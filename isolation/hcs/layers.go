package hcs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// mountTries is how often a mount is tried while the disk "is not ready" or "not connected", as it is under
	// parallel load on Server 2019. containerd's shim does the same.
	mountTries = 5
	// renameTries is how often a scratch layer is moved to the trash while somebody holds it.
	renameTries = 5
	// scratchDisk is the virtual disk in a scratch layer.
	scratchDisk = "sandbox.vhdx"
	// removing marks layers in the trash.
	removing = "-removing"
)

// mount attaches a scratch layer and merges the chain into it.
func (h *Host) mount(ctx context.Context, layer string, chain []string) (volume string, err error) {
	freed := false
	for try := 1; ; try++ {
		if volume, err = h.mountOnce(layer, chain); err == nil {
			return strings.TrimSuffix(volume, `\`), nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		switch {
		case hasCode(err, codeTimeout):
			return "", errFresh{fault.Systemf("mounting the scratch: %w", err)}
		case hasCode(err, codeNotReady, codeNotConnected) && try < mountTries:
		case hasCode(err, codeSharing) && !freed:
			freed = true
			h.free(layer)
		default:
			return "", err
		}
		h.log.Debug().Err(err).Str("layer", layer).Int("try", try).Msg("mounting again")
		time.Sleep(h.timing.pause)
	}
}

// mountOnce tries once, and leaves nothing attached when it fails.
func (h *Host) mountOnce(layer string, chain []string) (volume string, err error) {
	if err := h.do("activating a layer", func() error { return h.compute.Activate(layer) }); err != nil {
		h.attempt("deactivating a layer", func() error { return h.compute.Deactivate(layer) })
		return "", err
	}
	if err := h.do("preparing a layer", func() error { return h.compute.Prepare(layer, chain) }); err != nil {
		h.attempt("deactivating a layer", func() error { return h.compute.Deactivate(layer) })
		return "", err
	}
	err = h.do("finding a volume", func() (err error) { volume, err = h.compute.VolumePath(layer); return err })
	if err != nil {
		h.unmount(layer)
		return "", err
	}
	return volume, nil
}

// unmount is mount's reverse. Layers that are not mounted, or only half, refuse parts of it; that it worked shows
// when the layer can be moved.
func (h *Host) unmount(layer string) {
	h.attempt("unpreparing a layer", func() error { return h.compute.Unprepare(layer) })
	h.attempt("deactivating a layer", func() error { return h.compute.Deactivate(layer) })
}

// free takes a scratch layer from whatever holds it, as far as that can be done.
func (h *Host) free(layer string) {
	h.unmount(layer)
	h.attempt("detaching a disk", func() error { return h.compute.DetachDisk(filepath.Join(layer, scratchDisk)) })
}

// attempt makes a call that may fail.
func (h *Host) attempt(what string, call func() error) {
	if err := h.do(what, call); err != nil {
		h.log.Debug().Err(err).Msg(what)
	}
}

// discard moves an unmounted scratch layer to the trash, where it is destroyed in the background. What cannot be
// moved stays, in quarantine.
func (h *Host) discard(layer string) error {
	name := filepath.Base(layer)
	target := filepath.Join(h.trashDir(), name+removing)
	var err error
	for try := range renameTries {
		err = h.do("moving a layer to the trash", func() error { return h.compute.Rename(layer, target) })
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			h.release(name)
			h.dispose(target)
			return nil
		}
		if try == 0 {
			h.attempt("detaching a disk", func() error { return h.compute.DetachDisk(filepath.Join(layer, scratchDisk)) })
		}
		time.Sleep(h.timing.pause)
	}
	h.quarantine(name, err)
	return fault.WithRemedy(fault.Systemf("the scratch layer %s cannot be moved: %w", name, err),
		"exclude Airlock's directories from virus scanning; it is tried again")
}

// emptyTrash destroys what is in the trash.
func (h *Host) emptyTrash() {
	entries, err := os.ReadDir(h.trashDir())
	if err != nil {
		h.log.Error().Err(err).Msg("reading the trash")
		return
	}
	for _, entry := range entries {
		h.dispose(filepath.Join(h.trashDir(), entry.Name()))
	}
}

// dispose destroys a layer in the trash in the background, with growing pauses while somebody still reads it. What is
// left then is tried again by the next List, or the next start.
func (h *Host) dispose(target string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.disposing[target] || h.life.Err() != nil {
		return
	}
	h.disposing[target] = true
	h.background.Go(func() {
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.disposing, target)
		}()
		var err error
		for try := 0; ; try++ {
			if _, missing := os.Lstat(target); errors.Is(missing, fs.ErrNotExist) {
				return
			}
			if err = h.do("destroying a layer", func() error { return h.compute.DestroyLayer(target) }); err == nil {
				return
			}
			if try == len(h.timing.dispose) {
				break
			}
			select {
			case <-time.After(h.timing.dispose[try]):
			case <-h.life.Done():
				return
			}
		}
		h.log.Warn().Err(err).Str("layer", target).Msg("a discarded scratch cannot be deleted yet; it is tried again")
	})
}
