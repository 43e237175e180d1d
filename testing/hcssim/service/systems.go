package service

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
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
		id: id, runtime: s.vary.newGUID(), document: doc, state: created, handles: map[*systemHandle]bool{},
		processes: map[uint64]*process{}, gone: make(chan struct{}),
	}
	if err := s.judge(sys); err != nil {
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
	if sys.ending { // it was terminated meanwhile; whoever ends it waits for the guest
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
	merged, err := s.config.Guests.Merge(Scratch{
		Layers: sys.scratch.layers, Upper: filepath.Join(sys.scratch.path, upperDir), Work: filepath.Join(sys.scratch.path, workDir),
	})
	sys.scratch.merged = merged
	return err
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
	id := strings.ToUpper(s.vary.newGUID().String())
	s.systems[id] = &system{
		id: id, runtime: s.vary.newGUID(), state: running, template: true, imagePath: sys.imagePath,
		document: document{Name: id, SystemType: "Container", HvRuntime: sys.document.HvRuntime},
		handles:  map[*systemHandle]bool{}, processes: map[uint64]*process{}, gone: make(chan struct{}),
	}
}

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

func (s *Service) enumerateSystems(c *call) ([]any, error) {
	var query struct{ Ids, Types, Names, Owners []string }
	if err := json.Unmarshal([]byte(c.text(0)), &query); err != nil && c.text(0) != "" {
		return nil, broken(RuleJSON, InvalidJSON, "%v", err)
	}
	matches := func(wanted []string, value string) bool {
		return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w string) bool { return strings.EqualFold(w, value) })
	}
	list := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(s.systems)) {
		sys := s.systems[id]
		if matches(query.Ids, id) && matches(query.Types, "Container") && matches(query.Names, sys.document.Name) &&
			matches(query.Owners, sys.document.Owner) {
			list = append(list, s.properties(sys))
		}
	}
	text, err := json.Marshal(list)
	return []any{string(text)}, err
}

func (s *Service) systemProperties(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	var query struct{ PropertyTypes []string }
	if err := json.Unmarshal([]byte(c.text(1)), &query); err != nil && c.text(1) != "" {
		return nil, broken(RuleJSON, InvalidJSON, "%v", err)
	}
	properties := s.properties(of.system)
	for _, kind := range query.PropertyTypes {
		switch kind {
		case "Statistics":
			properties[kind] = of.system.statistics()
		case "ProcessList":
			properties[kind] = of.system.processList()
		}
	}
	text, err := json.Marshal(properties)
	return []any{string(text)}, err
}

// properties are what every query tells. Source: hcsshim internal/hcs/schema1/schema1.go, ContainerProperties.
func (s *Service) properties(sys *system) map[string]any {
	properties := map[string]any{
		"Id": sys.id, "State": string(sys.state), "Name": sys.document.Name, "SystemType": "Container",
		"RuntimeOsType": "Windows", "Owner": sys.document.Owner, "RuntimeId": s.vary.guid(sys.runtime.String()),
	}
	if sys.state == stopped {
		properties["Stopped"], properties["ExitType"] = true, "ForcedExit"
	}
	if sys.template {
		properties["IsRuntimeTemplate"] = true
	}
	if sys.document.HvRuntime != nil {
		properties["RuntimeImagePath"] = sys.document.HvRuntime.ImagePath
	}
	return properties
}

// statistics are made up: nothing is measured.
func (sys *system) statistics() map[string]any {
	return map[string]any{
		"Timestamp":          time.Now().UTC().Format(time.RFC3339Nano),
		"ContainerStartTime": sys.began.UTC().Format(time.RFC3339Nano),
		"Uptime100ns":        uint64(time.Since(sys.began) / 100),
		"Memory":             map[string]any{"MemoryUsageCommitBytes": 64 << 20, "MemoryUsageCommitPeakBytes": 80 << 20, "MemoryUsagePrivateWorkingSetBytes": 40 << 20},
		"Processor":          map[string]any{"TotalRuntime100ns": 5_000_000, "RuntimeUser100ns": 3_000_000, "RuntimeKernel100ns": 2_000_000},
		"Storage":            map[string]any{"ReadCountNormalized": 100, "ReadSizeBytes": 1 << 20, "WriteCountNormalized": 50, "WriteSizeBytes": 1 << 19},
	}
}
