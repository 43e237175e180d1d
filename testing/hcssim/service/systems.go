package service

import (
	"strings"
	"time"
)

// state is where a compute system is in its life.
type state string

const (
	created  state = "Created"
	starting state = "Starting"
	running  state = "Running"
	paused   state = "Paused"
	stopped  state = "Stopped"
)

// system is a compute system: a container, or a template of utility VMs.
type system struct {
	id       string
	runtime  GUID
	document document
	state    state
	handles  map[*systemHandle]bool
	began    time.Time

	scratch   *scratch
	endpoints []string
	guest     Guest
	processes map[uint64]*process

	template  bool
	imagePath string // native, of the utility VM

	booting chan struct{} // closed when its guest is there, or will not be
	ending  bool
	gone    chan struct{} // closed when it has ended
}

// systemHandle is one client's handle of a system.
type systemHandle struct {
	system        *system
	registrations []*registration
	backlog       []notification // what happened before a callback was there
}

func (s *Service) openHandle(c *call, sys *system) uint64 {
	h := &systemHandle{system: sys}
	sys.handles[h] = true
	return s.open(c.client, h)
}

// closeSystem is what the end of a handle means to its system.
func (s *Service) closeSystem(h *systemHandle) {
	sys := h.system
	delete(sys.handles, h)
	if len(sys.handles) > 0 {
		return
	}
	switch {
	case sys.state == stopped:
		delete(s.systems, sys.id)
	case sys.document.TerminateOnLastHandleClosed:
		s.end(sys, exit{status: OK})
	}
}

// createSystem is HcsCreateComputeSystem. The notification waits for the callback, which hcsshim registers afterwards.
func (s *Service) createSystem(c *call) ([]any, error) {
	id := c.text(0)
	if s.systems[id] != nil {
		return nil, broken(RuleName, SystemExists, "there is a system %s already", id)
	}
	doc, err := parseDocument(c.text(1))
	if err != nil {
		return nil, err
	}
	sys := &system{
		id: id, runtime: s.vary.newGUID("a system"), document: doc, state: created, handles: map[*systemHandle]bool{},
		processes: map[uint64]*process{}, gone: make(chan struct{}),
	}
	if err := s.validate(sys); err != nil {
		return nil, err
	}
	s.systems[id] = sys
	sys.scratch.user = sys
	for _, endpoint := range sys.endpoints {
		s.networks.endpoints[endpoint].user = id
	}
	number := s.openHandle(c, sys)
	of := c.client.handles[number].(*systemHandle)
	s.complete(c, of, createCompleted, func() HRESULT {
		if c.fault != nil && c.fault.NotificationStatus != 0 {
			s.mu.Lock()
			s.end(sys, exit{status: OK, silent: true})
			s.mu.Unlock()
		}
		return OK
	})
	return []any{number}, nil
}

func (s *Service) openSystem(c *call) ([]any, error) {
	sys := s.systems[c.text(0)]
	if sys == nil || sys.state == stopped {
		return nil, refuse(NoSystem, "there is no system %s", c.text(0))
	}
	return []any{s.openHandle(c, sys)}, nil
}

func (s *Service) closeSystemHandle(c *call) ([]any, error) {
	if _, err := handle[*systemHandle](c, 0); err != nil {
		return nil, err
	}
	s.close(c.client, c.number(0))
	return nil, nil
}

func (s *Service) startSystem(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	sys := of.system
	if sys.ending || sys.state == stopped {
		return nil, refuse(AlreadyStopped, "the system %s has ended", sys.id)
	}
	if sys.state != created {
		return nil, broken(RuleStart, InvalidState, "the system %s is %s", sys.id, sys.state)
	}
	sys.state = starting
	if c.fault != nil && (c.fault.NotificationStatus != 0 || c.fault.DropNotification) {
		s.complete(c, of, startCompleted, func() HRESULT { return OK })
		return nil, nil
	}
	sys.booting = make(chan struct{})
	s.complete(c, of, startCompleted, func() HRESULT { return s.boot(sys) })
	return nil, nil
}

// boot makes a started system's guest. It runs unlocked, because it takes its time.
func (s *Service) boot(sys *system) HRESULT {
	container := Container{ID: sys.id, Mapped: sys.document.mapped}
	s.mu.Lock()
	err := s.mountForGuest(sys)
	container.Merged = sys.scratch.merged
	s.mu.Unlock()
	var guest Guest
	if err == nil {
		guest, err = s.config.Guests.Boot(container)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sys.guest = guest
	close(sys.booting)
	if err != nil {
		s.config.Log("the system %s does not start: %v", sys.id, err)
		s.end(sys, exit{status: UnexpectedExit, silent: true})
		return UnexpectedExit
	}
	if sys.ending { // it was terminated meanwhile; the call that ends it waits for the guest
		return InvalidState
	}
	sys.state, sys.began = running, time.Now()
	if sys.document.HvPartition && !sys.document.HvRuntime.SkipTemplate {
		s.keepTemplate(sys)
	}
	return OK
}

// mountForGuest mounts the scratch of a Hyper-V container: only its virtual machine sees it.
func (s *Service) mountForGuest(sys *system) error {
	if !sys.document.HvPartition {
		return nil
	}
	sys.scratch.booted = true
	s.config.Disk.Hold(sys.scratch.path)
	return s.merge(sys.scratch)
}

// keepTemplate leaves the template from which the virtual machine was cloned, as the service does unless
// HvRuntime.SkipTemplate is set: a system of nobody that keeps the base in use. Source: moby issue 28087 and
// daemon/graphdriver/windows, Remove; ContainerProperties.IsRuntimeTemplate.
func (s *Service) keepTemplate(sys *system) {
	for _, other := range s.systems {
		if other.template && other.imagePath == sys.imagePath {
			return
		}
	}
	id := strings.ToUpper(s.vary.newGUID("a template").String())
	s.systems[id] = &system{
		id: id, runtime: s.vary.newGUID("a system"), state: running, template: true, imagePath: sys.imagePath,
		document: document{Name: id, SystemType: "Container", HvRuntime: sys.document.HvRuntime},
		handles:  map[*systemHandle]bool{}, processes: map[uint64]*process{}, gone: make(chan struct{}),
	}
}
