package service

import (
	"sync"
	"time"
)

// Notification types. Source: hcsshim internal/hcs/callback.go.
const (
	systemExited      = 0x00000001
	createCompleted   = 0x00000002
	startCompleted    = 0x00000003
	pauseCompleted    = 0x00000004
	resumeCompleted   = 0x00000005
	processExited     = 0x00010000
	serviceDisconnect = 0x01000000
)

type notification struct {
	kind   uint32
	status HRESULT
	// done is closed when the client's callback has returned; may be nil.
	done chan struct{}
}

// registration is a callback of a client. Its notifications come one after another, each when the one before has
// returned.
type registration struct {
	of   string // "system a", "process 8 of a"
	send func(kind uint32, status HRESULT) error
	stop func() // tells the client's end that nothing more comes

	mu     sync.Mutex
	queue  []notification
	wake   chan struct{}
	closed bool
}

// Callback registers a client's end of a callback, and returns its id: a call will name it. send returns when the
// client's function has returned; stop ends the connection.
func (s *Service) Callback(client *Client, send func(kind uint32, status HRESULT) error, stop func()) uint64 {
	r := &registration{send: send, stop: stop, wake: make(chan struct{}, 1)}
	go r.run()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.clients[client] { // it is dead already
		r.end()
		return 0
	}
	return s.open(client, r)
}

func (r *registration) run() {
	for range r.wake {
		for {
			r.mu.Lock()
			if r.closed {
				r.mu.Unlock()
				return
			}
			if len(r.queue) == 0 {
				r.mu.Unlock()
				break
			}
			n := r.queue[0]
			r.queue = r.queue[1:]
			r.mu.Unlock()
			err := r.send(n.kind, n.status)
			if n.done != nil {
				close(n.done)
			}
			if err != nil {
				return
			}
		}
	}
}

func (r *registration) post(n notification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.queue = append(r.queue, n)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *registration) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		close(r.wake)
		r.stop()
	}
}

func (s *Service) registerSystem(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	r, err := handle[*registration](c, 1)
	if err != nil {
		return nil, err
	}
	sys := of.system
	r.of = "system " + sys.id
	of.registrations = append(of.registrations, r)
	for _, n := range of.backlog {
		r.post(n)
	}
	of.backlog = nil
	return nil, nil
}

func (s *Service) registerProcess(c *call) ([]any, error) {
	of, err := handle[*processHandle](c, 0)
	if err != nil {
		return nil, err
	}
	r, err := handle[*registration](c, 1)
	if err != nil {
		return nil, err
	}
	r.of = describe(of)
	of.registrations = append(of.registrations, r)
	if of.process.exited && !of.process.silent {
		r.post(notification{kind: processExited})
	}
	return nil, nil
}

func (s *Service) unregister(c *call) ([]any, error) {
	if _, err := handle[*registration](c, 0); err != nil {
		return nil, err
	}
	s.close(c.client, c.number(0))
	return nil, nil
}

// complete tells a handle's callback how an operation ended: before the call has returned or after, which the real
// service leaves open. work, which may take its time, is the operation; it runs with the service unlocked and returns
// the status.
func (s *Service) complete(c *call, of *systemHandle, kind uint32, work func() HRESULT) {
	finish := func(done chan struct{}) {
		status := work()
		if c.fault != nil && c.fault.NotificationStatus != 0 {
			status = c.fault.NotificationStatus
		}
		if c.fault != nil && c.fault.DropNotification {
			if done != nil {
				close(done)
			}
			return
		}
		s.mu.Lock()
		n := notification{kind: kind, status: status, done: done}
		if len(of.registrations) == 0 {
			n.done = nil
			of.backlog = append(of.backlog, n)
			if done != nil {
				close(done)
			}
		}
		for _, r := range of.registrations {
			r.post(n)
			n.done = nil
		}
		s.mu.Unlock()
	}
	if s.vary.chance("notification before the call returns") {
		c.before = append(c.before, func() {
			done := make(chan struct{})
			finish(done)
			select {
			case <-done:
			case <-time.After(200 * time.Millisecond):
			}
		})
		return
	}
	delay := s.vary.delay("notification after the call's return")
	c.after = append(c.after, func() {
		time.Sleep(delay)
		finish(nil)
	})
}
