package microvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// restoreTimeout bounds the restoring of a template until the guest answers. Less than a tenth of a second is usual.
const restoreTimeout = 10 * time.Second

// restoreGuest starts the sandbox's machine as a clone of a template: with the same memory, copied as it is written, the
// sandbox's disks and network behind the same devices, and what the guest is told to make it differ.
func (r *Runtime) restoreGuest(ctx context.Context, s *sandbox, spec isolation.Spec, t *template, setup agent.GuestSetup) error {
	ctx, cancel := context.WithTimeoutCause(ctx, restoreTimeout, fault.Systemf("the template was not restored within %s", restoreTimeout))
	defer cancel()
	files := &descriptors{}
	m := r.cloneOf(t)
	err := r.attach(&m, files, spec)
	if err != nil {
		files.close()
		return err
	}
	incoming, err := m.remember(t, files)
	if err != nil {
		return fault.Systemf("opening a template: %w", err)
	}
	v, err := startVM(r.jailed(), spec.ID, m, files)
	if err != nil {
		return &restoreError{err}
	}
	s.take(v)
	if err := v.run(ctx,
		func() error { return r.cgroups.Add(spec.ID, v.command.Process.Pid) },
		func() error { return v.wake(incoming) },
		func() error { return v.tell(ctx, setup) }); err != nil {
		return &restoreError{err}
	}
	return nil
}

// cloneOf is a machine like the template's, with nothing behind its devices yet.
func (r *Runtime) cloneOf(t *template) machine {
	return machine{accel: r.accelerator(), shape: t.shape, boot: r.booted(), incoming: true}
}

// remember gives a clone the template's memory, and returns where it finds the rest of its state. When it fails, the files
// are closed.
func (m *machine) remember(t *template, files *descriptors) (incoming string, err error) {
	memory, err := reopen(t.memory)
	if err != nil {
		files.close()
		return "", err
	}
	m.memory = files.add(memory)
	state, err := reopen(t.state)
	if err != nil {
		files.close()
		return "", err
	}
	return fmt.Sprintf("fd:%d", files.add(state)), nil
}

// wake lets a clone go on where its template was saved.
func (v *vm) wake(incoming string) error {
	_, err := v.monitor.run(capabilitiesCommand, ignoreShared,
		command{Execute: "migrate-incoming", Arguments: map[string]any{"uri": incoming}})
	return err
}

// restoreError says that a template was of no use: its guest does not answer.
type restoreError struct{ error }

func (e *restoreError) Unwrap() error { return e.error }

// useless says that a machine failed in a way that another one need not. Its QEMU has ended.
func useless(ctx context.Context, err error) bool {
	var restore *restoreError
	return ctx.Err() == nil && errors.As(err, &restore)
}
