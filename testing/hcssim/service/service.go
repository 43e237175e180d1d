package service

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Config says what the machine is and what it stands on.
type Config struct {
	// Build is the host's build: 17763 (Server 2019), 20348 (2022), 26100 (2025).
	Build int
	// Seed chooses among the behaviours that the real service leaves open.
	Seed uint64
	// Disk is the client's C: drive.
	Disk Disk
	// Guests run the processes of containers.
	Guests Guests
	// Kill ends a client's process, by the id that Windows gave it, for faults that ask so.
	Kill func(pid uint64)
	// Log takes one line for each call that was refused by a rule, and each fault; may be nil.
	Log func(format string, args ...any)
}

// Disk is the client's C: drive as this host sees it.
type Disk interface {
	// Path returns the native path of a Windows path below C:. It need not exist; what exists of it is found without
	// regard to case. Whatever leads elsewhere is an error.
	Path(windows string) (string, error)
	// Publish makes a volume's path (\\?\Volume{GUID}) lead the client to a directory.
	Publish(volume GUID, dir string) error
	// Withdraw undoes it.
	Withdraw(volume GUID)
	// Hold keeps a folder from being renamed or removed while its disk is attached; Release lets go.
	Hold(dir string)
	Release(dir string)
}

// Service is the simulated services of one machine. Its methods may be called concurrently.
type Service struct {
	config Config
	vary   *variation

	mu         sync.Mutex
	stopped    bool // the service is stopped: every call fails
	lastHandle uint64
	clients    map[*Client]bool
	left       []string // handles that clients left at their ends
	faults     []*fault
	trace      []Call
	broken     []error
	began      time.Time

	layers   layers
	systems  map[string]*system
	networks networks
	streams  streams
	ended    chan struct{} // closed by Close: hanging calls return
}

// New returns the services of a machine that has just started.
func New(config Config) *Service {
	if config.Log == nil {
		config.Log = func(string, ...any) {}
	}
	s := &Service{
		config:  config,
		vary:    newVariation(config.Seed),
		clients: map[*Client]bool{},
		systems: map[string]*system{},
		began:   time.Now(),
		ended:   make(chan struct{}),
	}
	s.layers = layers{scratches: map[string]*scratch{}, parents: map[string][]string{}, imports: map[string]string{}}
	s.networks.init()
	s.streams.init()
	return s
}

// Client is one process with its handles.
type Client struct {
	// PID is the id that Windows gave the process.
	PID     uint64
	handles map[uint64]any
	// killed is set when the simulator ended it: what it leaves is then no fault of its own.
	killed bool
}

// Connect says that a process has loaded one of the DLLs.
func (s *Service) Connect(pid uint64) *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Client{PID: pid, handles: map[uint64]any{}}
	s.clients[c] = true
	return c
}

// Disconnect says that a process has ended. Its handles are closed, as Windows does.
func (s *Service) Disconnect(c *Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for handle, object := range c.handles {
		if !c.killed {
			s.left = append(s.left, fmt.Sprintf("process %d ended with a handle of %s open", c.PID, describe(object)))
		}
		s.close(c, handle)
	}
	delete(s.clients, c)
}

// open gives a client a handle.
func (s *Service) open(c *Client, object any) uint64 {
	s.lastHandle += 4 // as Windows counts
	handle := s.lastHandle + 0x10000
	c.handles[handle] = object
	return handle
}

// handle returns what a handle stands for.
func handle[T any](c *call, argument int) (T, error) {
	object, ok := c.client.handles[c.number(argument)].(T)
	if !ok {
		return object, broken(RuleHandle, InvalidHandle, "handle %#x is none of %T", c.number(argument), object)
	}
	return object, nil
}

// close closes a handle; the last one of a system may end it.
func (s *Service) close(c *Client, handle uint64) {
	object := c.handles[handle]
	delete(c.handles, handle)
	switch o := object.(type) {
	case *registration:
		o.end()
	case *systemHandle:
		s.closeSystem(o)
	case *processHandle:
		s.closeProcess(o)
	}
}

// describe names the object of a handle in a report.
func describe(object any) string {
	switch o := object.(type) {
	case *systemHandle:
		return "system " + o.system.id
	case *processHandle:
		return fmt.Sprintf("process %d of %s", o.process.pid, o.process.system.id)
	case *registration:
		return "a callback for " + o.of
	case *networkHandle:
		return "network " + o.id
	case *endpointHandle:
		return "endpoint " + o.id
	default:
		return fmt.Sprintf("%T", object)
	}
}

// Close ends everything: containers, callbacks, hanging calls.
func (s *Service) Close() {
	s.mu.Lock()
	select {
	case <-s.ended:
		s.mu.Unlock()
		return
	default:
		close(s.ended)
	}
	s.mu.Unlock()
	s.Reboot()
}

// Reboot is a restart of the machine: systems, mounts, handles and NAT networks are gone, endpoints and files stay.
// The clients go on, which no real one would: end them first.
//
// NAT networks are not persistent since Server 2019 (Microsoft's documentation of Windows container networking);
// endpoints do leak when a host dies (moby issue 47576).
func (s *Service) Reboot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for client := range s.clients {
		client.killed = true
		for handle := range client.handles {
			s.close(client, handle)
		}
	}
	for _, sys := range slices.Collect(maps.Values(s.systems)) {
		s.end(sys, exit{status: OK, silent: true})
		delete(s.systems, sys.id)
	}
	for _, scratch := range s.layers.scratches {
		s.unmount(scratch)
	}
	s.networks.reboot()
	s.stopped = false
}

// StopService stops the compute service: every wait of hcsshim ends with "lost communication with compute service",
// and every call fails until StartService. Containers are taken along; whether a real one's would be is unknown.
func (s *Service) StopService() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopService()
}

func (s *Service) stopService() {
	s.stopped = true
	for client := range s.clients {
		client.killed = true // it cannot close its handles any more
		for _, object := range client.handles {
			if r, ok := object.(*registration); ok {
				r.post(notification{kind: serviceDisconnect})
			}
		}
	}
	for _, sys := range slices.Collect(maps.Values(s.systems)) {
		s.end(sys, exit{status: OK, silent: true})
		delete(s.systems, sys.id)
	}
}

// StartService starts the service again. Its systems have ended: handles from before are good for closing them alone.
func (s *Service) StartService() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = false
}
