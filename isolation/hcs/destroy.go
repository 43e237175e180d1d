package hcs

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// end ends a compute system and gives its handle back. It never asks it to shut down: that is known to hang for
// minutes, and nothing in a sandbox is worth waiting for. A system that does not end goes into quarantine; its handle
// then stays open, as closing it may hang too, until the end comes after all.
func (h *Host) end(name string, container system) error {
	err := h.do("terminating "+name, container.Terminate)
	if err != nil && !hasCode(err, codeNoSystem) && !errors.Is(err, errServiceLost) {
		if !errors.Is(err, errNoAnswer) { // a call that hangs is there already
			h.quarantine(name, err)
		}
		return fault.Systemf("terminating the container %s: %w", name, err)
	}
	gone := func() {
		h.attempt("closing "+name, container.Close)
		h.release(name)
	}
	_, err = bounded(h, h.timing.end, "the end of "+name, func() (struct{}, error) {
		if err := container.Wait(); errors.Is(err, errNoAnswer) {
			return struct{}{}, err
		}
		return struct{}{}, nil // however it ended otherwise, it ended
	}, func(struct{}) { gone() })
	if err != nil {
		h.quarantine(name, err)
		return fault.WithRemedy(fault.Systemf("the container %s does not end: %w", name, err), "restart this host if it stays so")
	}
	gone()
	return nil
}

// endByName ends a compute system that this process has no handle of. It succeeds when there is none.
func (h *Host) endByName(name string) error {
	container, err := bounded(h, h.timing.call, "opening "+name, func() (system, error) { return h.compute.Open(name) },
		func(late system) { _ = late.Close() })
	switch {
	case hasCode(err, codeNoSystem):
		h.release(name)
		return nil
	case err != nil:
		h.quarantine(name, err)
		return fault.Systemf("opening the container %s: %w", name, err)
	}
	return h.end(name, container)
}

// remove removes all that a sandbox has, by its id alone: first its compute systems, which hold all the rest, then the
// scratches, then the record. The caller holds the id's lock. It is not cancelled: what it left, the reaper would have
// to find. Each of its calls is bounded.
func (h *Host) remove(id string) error {
	r, known, err := h.recall(id)
	if err != nil {
		return fault.Systemf("destroying sandbox %s: %w", id, err)
	}
	names, err := h.systems()
	if err != nil {
		return fault.Systemf("destroying sandbox %s: listing compute systems: %w", id, err)
	}
	var errs []error
	for _, name := range names {
		if idOf(name) == id {
			errs = append(errs, h.endByName(name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroying sandbox %s: %w", id, err)
	}
	if !known {
		return nil
	}
	layers, err := layersOf(r, id)
	errs = append(errs, err)
	for _, layer := range layers {
		if r.Level != isolation.HypervisorLevel {
			h.unmount(layer)
		}
		errs = append(errs, h.discard(layer))
	}
	if r.ScratchDir != "" {
		errs = append(errs, os.RemoveAll(scriptsOf(r.ScratchDir)))
	}
	if err := errors.Join(errs...); err != nil {
		return fault.Systemf("destroying sandbox %s: %w", id, err)
	}
	if err := h.forget(id); err != nil {
		return fault.Systemf("destroying sandbox %s: %w", id, err)
	}
	return nil
}

// Sweep ends and removes everything of this owner: an executor calls it once, before it takes jobs, when nothing of it
// can be anyone's. What there is is found at once; it is removed in the background, until the returned channel is
// closed, and jobs that begin meanwhile have other names. The network's endpoints and the cache's layers are swept by
// their owners. What will not go is in quarantine afterwards, and no reason not to start.
func (h *Host) Sweep() (done <-chan struct{}) {
	names, err := h.systems()
	if err != nil {
		h.log.Error().Err(err).Msg("the compute systems of an earlier executor cannot be listed; the reaper tries again")
	}
	recorded, err := h.records()
	if err != nil {
		h.log.Error().Err(err).Msg("the sandboxes of an earlier executor cannot be listed; the reaper tries again")
	}
	ended := make(chan struct{})
	h.background.Go(func() {
		defer close(ended)
		h.sweep(names, slices.Sorted(maps.Keys(recorded)))
	})
	return ended
}

func (h *Host) sweep(names, ids []string) {
	for _, name := range names {
		if h.life.Err() != nil {
			return
		}
		err := h.endByName(name)
		h.log.Info().Str("system", name).Err(err).Msg("ended a container that an earlier executor left")
	}
	for _, id := range ids {
		if h.life.Err() != nil {
			return
		}
		unlock := h.locks.Lock(id)
		err := h.remove(id)
		unlock()
		h.log.Info().Str("sandbox", id).Err(err).Msg("removed what an earlier executor left of a sandbox")
	}
	h.emptyTrash()
}
