package service

import (
	"fmt"
	"time"
)

// exit is how a system ends.
type exit struct {
	status HRESULT
	silent bool // tell nobody
}

// end ends a system: its processes first, then it tells who asked to know. The work is done behind the caller's back,
// unless the service is silent about it.
func (s *Service) end(sys *system, how exit) {
	if sys.ending {
		if how.silent {
			s.mu.Unlock()
			<-sys.gone
			s.mu.Lock()
		}
		return
	}
	sys.ending = true
	stop := func() {
		if sys.booting != nil {
			<-sys.booting
		}
		if sys.guest != nil {
			sys.guest.Close()
		}
	}
	if how.silent {
		s.mu.Unlock()
		stop()
		s.mu.Lock()
		s.bury(sys, how)
		return
	}
	go func() {
		stop()
		time.Sleep(s.vary.delay("end of a system"))
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bury(sys, how)
	}()
}

// bury gives up all that an ended system had, and tells of its end.
func (s *Service) bury(sys *system, how exit) {
	sys.state, sys.guest = stopped, nil
	for _, p := range sys.processes {
		p.end(aborted, how.silent)
	}
	if sys.scratch != nil {
		if sys.document.HvPartition {
			s.split(sys.scratch)
			s.config.Disk.Release(sys.scratch.path)
		}
		sys.scratch.user = nil
	}
	for _, id := range sys.endpoints {
		if endpoint := s.networks.endpoints[id]; endpoint != nil {
			endpoint.user = ""
		}
	}
	for h := range sys.handles {
		for _, r := range h.registrations {
			if !how.silent {
				r.post(notification{kind: systemExited, status: how.status})
			}
		}
		if len(h.registrations) == 0 && !how.silent {
			h.backlog = append(h.backlog, notification{kind: systemExited, status: how.status})
		}
	}
	if len(sys.handles) == 0 {
		delete(s.systems, sys.id)
	}
	close(sys.gone)
}

// terminateSystem is HcsTerminateComputeSystem.
func (s *Service) terminateSystem(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	if of.system.state == stopped {
		return nil, refuse(AlreadyStopped, "the system %s has ended", of.system.id)
	}
	how := exit{status: OK}
	if c.fault != nil {
		if c.fault.DropNotification {
			return nil, nil // it never ends
		}
		how.status = c.fault.NotificationStatus
	}
	c.after = append(c.after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(of.system, how)
	})
	return nil, nil
}

// shutdownSystem asks the system's own Windows to end, which takes longer than to terminate it.
func (s *Service) shutdownSystem(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	switch of.system.state {
	case stopped:
		return nil, refuse(AlreadyStopped, "the system %s has ended", of.system.id)
	case running:
	default:
		return nil, refuse(InvalidState, "the system %s is %s", of.system.id, of.system.state)
	}
	if c.fault != nil && c.fault.DropNotification {
		return nil, nil
	}
	c.after = append(c.after, func() {
		time.Sleep(100 * time.Millisecond)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(of.system, exit{status: OK})
	})
	return nil, nil
}

// pauseSystem and resumeSystem change the state and nothing else: processes go on.
func (s *Service) pauseSystem(c *call) ([]any, error) {
	return s.change(c, running, paused, pauseCompleted)
}

func (s *Service) resumeSystem(c *call) ([]any, error) {
	return s.change(c, paused, running, resumeCompleted)
}

func (s *Service) change(c *call, from, to state, kind uint32) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	if of.system.state != from {
		return nil, refuse(InvalidState, "the system %s is %s", of.system.id, of.system.state)
	}
	of.system.state = to
	s.complete(c, of, kind, func() HRESULT { return OK })
	return nil, nil
}

// Crash lets a system end by itself, as a utility VM that dies does: waits then return ErrVmcomputeUnexpectedExit.
func (s *Service) Crash(id string) error {
	s.mu.Lock()
	sys := s.systems[id]
	if sys == nil || sys.ending {
		s.mu.Unlock()
		return fmt.Errorf("there is no system %s", id)
	}
	s.end(sys, exit{status: UnexpectedExit})
	s.mu.Unlock()
	<-sys.gone
	return nil
}
