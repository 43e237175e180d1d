package service

import (
	"path"
	"slices"
	"strings"
	"time"
)

// Always is a Fault's Times for "without end".
const Always = -1

// Fault is something that goes wrong in a call. Only the test's own side can set one: nothing in the program under test
// knows of it.
type Fault struct {
	// Name is for the trace.
	Name string
	// Call is a pattern for the function's name, as of path.Match: "HcsStartComputeSystem", "*Layer".
	Call string
	// Match has to appear in one of the arguments, in whatever case: a path, a text in a document, or what a handle is one of,
	// "system ID" or "process PID of ID". Empty matches each call.
	Match string
	// Skip calls that match pass first; then Times of them are hit: 0 means one, Always all.
	Skip, Times int

	// HRESULT is returned instead of making the call, unless it is zero.
	HRESULT HRESULT
	// Delay comes before the call.
	Delay time.Duration
	// Hang keeps the call from returning until the simulator ends.
	Hang bool
	// DropNotification swallows the notification that the call would lead to.
	DropNotification bool
	// NotificationStatus, unless zero, is the status in that notification: the operation has failed.
	NotificationStatus HRESULT
	// KillClient ends the calling process before the call; KillAfter when the call was done, before it returns.
	KillClient, KillAfter bool
	// StopService stops the compute service before the call.
	StopService bool
}

type fault struct {
	Fault
	seen, hit int
}

// Fault sets a fault.
func (s *Service) Fault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Name == "" {
		f.Name = f.Call
	}
	s.faults = append(s.faults, &fault{Fault: f})
}

// ClearFaults takes all faults away. Calls that hang go on hanging.
func (s *Service) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// find returns the fault that hits a call.
func (s *Service) find(c *call) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if ok, err := path.Match(f.Call, c.function); err != nil || !ok || !c.mentions(f.Match) {
			continue
		}
		f.seen++
		if f.seen <= f.Skip || f.Times != Always && f.hit >= max(f.Times, 1) {
			continue
		}
		f.hit++
		return &f.Fault
	}
	return nil
}

// mentions says whether an argument contains a text, in whatever case. A handle stands for what it is one of.
func (c *call) mentions(text string) bool {
	return text == "" || slices.ContainsFunc(c.describe(), func(arg string) bool {
		return strings.Contains(strings.ToLower(arg), strings.ToLower(text))
	})
}

// strike does what a fault says. What concerns notifications stays with the call, for the handler.
func (s *Service) strike(c *call, traced *Call) error {
	f := s.find(c)
	if f == nil {
		return nil
	}
	c.fault, traced.Fault = f, f.Name
	if f.KillClient {
		s.strikes(traced, "its client is killed")
		s.kill(c.client)
		<-s.ended
		return refuse(ServiceGone, "fault %s", f.Name)
	}
	if f.StopService {
		s.StopService()
	}
	select {
	case <-s.ended:
	case <-time.After(f.Delay):
	}
	if f.Hang {
		s.strikes(traced, "it hangs")
		<-s.ended
		return refuse(ServiceGone, "fault %s", f.Name)
	}
	if f.HRESULT != 0 {
		return refuse(f.HRESULT, "fault %s", f.Name)
	}
	return nil
}

// strikes records a call that does not return before the simulator ends.
func (s *Service) strikes(traced *Call, how string) {
	now := *traced
	now.Refusal = how
	s.record(now, nil)
}

func (s *Service) kill(client *Client) {
	s.mu.Lock()
	for c := range s.clients {
		if c.PID == client.PID {
			c.killed = true
		}
	}
	s.mu.Unlock()
	if s.config.Kill != nil {
		s.config.Kill(client.PID)
	}
}
