package service

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// process is one process of a container.
type process struct {
	system  *system
	pid     uint64
	command string
	began   time.Time
	in      uint64 // its stream, or 0
	kill    func(code uint32)
	handles map[*processHandle]bool
	exited  bool
	silent  bool // nobody is told
	code    uint32
}

type processHandle struct {
	process       *process
	registrations []*registration
}

// processDocument is hcsshim's ProcessConfig without what only Linux containers have.
type processDocument struct {
	ApplicationName, CommandLine, User, WorkingDirectory string
	Environment                                          map[string]string
	EmulateConsole                                       bool
	CreateStdInPipe, CreateStdOutPipe, CreateStdErrPipe  bool
	ConsoleSize                                          [2]uint
}

// users are those of every image. Source: Microsoft's documentation of Windows containers.
var users = []string{"", "ContainerUser", "ContainerAdministrator", `User Manager\ContainerUser`, `User Manager\ContainerAdministrator`}

func parseProcess(text string) (processDocument, error) {
	var doc processDocument
	if err := strictly([]byte(text), &doc); err != nil {
		return doc, err
	}
	switch {
	case doc.CommandLine == "":
		return doc, broken(RuleProcess, InvalidArg, "there is no command line")
	case doc.ApplicationName != "":
		return doc, broken(RuleUnsimulated, NotSupported, "ApplicationName")
	case doc.EmulateConsole && doc.CreateStdErrPipe:
		return doc, broken(RuleProcess, InvalidArg, "a console and a pipe for stderr exclude each other")
	case !slices.ContainsFunc(users, func(u string) bool { return strings.EqualFold(u, doc.User) }):
		return doc, refuse(NoneMapped, "there is no user %s", doc.User)
	}
	return doc, nil
}

// createProcess is HcsCreateProcess. The service is unlocked while the guest starts it.
func (s *Service) createProcess(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	sys := of.system
	switch {
	case sys.ending || sys.state == stopped:
		return nil, refuse(AlreadyStopped, "the system %s has ended", sys.id)
	case sys.state != running:
		return nil, broken(RuleProcessState, InvalidState, "the system %s is %s", sys.id, sys.state)
	}
	doc, err := parseProcess(c.text(1))
	if err != nil {
		return nil, err
	}
	p := &process{system: sys, command: doc.CommandLine, began: time.Now(), handles: map[*processHandle]bool{}}
	start := Process{CommandLine: doc.CommandLine, Directory: doc.WorkingDirectory, Env: s.environment(sys, doc)}
	start.In = s.streams.when(doc.CreateStdInPipe, true, s.vary.chance("closing the pipe ends stdin"))
	start.Out = s.streams.when(doc.CreateStdOutPipe, false, false)
	start.Err = s.streams.when(doc.CreateStdErrPipe, false, false)
	started := make(chan struct{})
	start.Exited = func(code uint32) {
		<-started
		time.Sleep(s.vary.delay("end of a process"))
		s.mu.Lock()
		defer s.mu.Unlock()
		p.end(code, c.fault != nil && c.fault.DropNotification)
	}
	defer close(started)
	guest := sys.guest
	s.mu.Unlock()
	pid, kill, err := guest.Run(start)
	s.mu.Lock()
	if err != nil {
		s.streams.drop(start.In, start.Out, start.Err)
		if code, ok := errors.AsType[GuestError](err); ok {
			return nil, refuse(0x80070000|HRESULT(code), "starting %s: %v", doc.CommandLine, err)
		}
		return nil, refuse(AlreadyStopped, "starting %s: %v", doc.CommandLine, err)
	}
	p.pid, p.kill, p.in = pid, kill, start.In
	sys.processes[pid] = p
	if err := s.answers(c.client); err != nil { // it died meanwhile; the process goes on
		s.streams.drop(start.In, start.Out, start.Err)
		return nil, err
	}
	h := &processHandle{process: p}
	p.handles[h] = true
	return []any{s.open(c.client, h), uint32(pid), start.In, start.Out, start.Err}, nil
}

// environment is what the system itself adds to a process's.
func (s *Service) environment(sys *system, doc processDocument) map[string]string {
	env := map[string]string{"COMPUTERNAME": strings.ToUpper(sys.document.HostName)}
	if sys.document.HostName == "" {
		env["COMPUTERNAME"] = strings.ToUpper(sys.id[:min(len(sys.id), 12)])
	}
	if doc.User != "" {
		env["USERNAME"] = base(doc.User)
	}
	maps.Copy(env, doc.Environment)
	return env
}

// end says that a process has ended.
func (p *process) end(code uint32, silent bool) {
	if p.exited {
		return
	}
	p.exited, p.code, p.silent = true, code, silent
	delete(p.system.processes, p.pid)
	for h := range p.handles {
		for _, r := range h.registrations {
			if !silent {
				r.post(notification{kind: processExited})
			}
		}
	}
}

func (s *Service) openProcess(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	p := of.system.processes[c.number(1)]
	if p == nil {
		return nil, refuse(NotFound, "there is no process %d", c.number(1))
	}
	h := &processHandle{process: p}
	p.handles[h] = true
	return []any{s.open(c.client, h)}, nil
}

func (s *Service) closeProcessHandle(c *call) ([]any, error) {
	if _, err := handle[*processHandle](c, 0); err != nil {
		return nil, err
	}
	s.close(c.client, c.number(0))
	return nil, nil
}

// closeProcess is what the end of a handle means to its process.
func (s *Service) closeProcess(h *processHandle) {
	delete(h.process.handles, h)
	if len(h.process.handles) == 0 {
		s.streams.closeIn(h.process.in)
	}
}

// terminateProcess ends one process, and not those that it started.
func (s *Service) terminateProcess(c *call) ([]any, error) {
	h, err := handle[*processHandle](c, 0)
	if err != nil {
		return nil, err
	}
	if h.process.exited {
		return nil, refuse(ProcessStopped, "the process %d has ended", h.process.pid)
	}
	kill := h.process.kill
	c.before = append(c.before, func() { kill(aborted) })
	return nil, nil
}

func (s *Service) processInfo(c *call) ([]any, error) {
	h, err := handle[*processHandle](c, 0)
	if err != nil {
		return nil, err
	}
	// The streams were handed out when the process was made. Source: hcsshim process.go: "cached from CreateProcess".
	return []any{uint32(h.process.pid), uint64(0), uint64(0), uint64(0)}, nil
}

// processProperties returns an exit code. Source: hcsshim internal/hcs/schema2/process_status.go.
func (s *Service) processProperties(c *call) ([]any, error) {
	h, err := handle[*processHandle](c, 0)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]any{
		"ProcessId": h.process.pid, "Exited": h.process.exited, "ExitCode": h.process.code, "LastWaitResult": 0,
	})
	return []any{string(text)}, err
}

// modifyProcess closes stdin or sets the size of a console. Source: hcsshim
// internal/hcs/schema2/process_modify_request.go.
func (s *Service) modifyProcess(c *call) ([]any, error) {
	h, err := handle[*processHandle](c, 0)
	if err != nil {
		return nil, err
	}
	var request struct {
		Operation   string
		ConsoleSize *struct{ Height, Width uint16 }
		CloseHandle *struct{ Handle string }
	}
	if err := strictly([]byte(c.text(1)), &request); err != nil {
		return nil, err
	}
	if h.process.exited {
		return nil, refuse(InvalidState, "the process %d has ended", h.process.pid)
	}
	switch {
	case request.Operation == "ConsoleSize" && request.ConsoleSize != nil:
		return nil, nil
	case request.Operation == "CloseHandle" && request.CloseHandle != nil && request.CloseHandle.Handle == "StdIn":
		s.streams.closeIn(h.process.in)
		return nil, nil
	}
	return nil, broken(RuleProcess, InvalidArg, "no such operation: %s", c.text(1))
}

func (sys *system) processList() []map[string]any {
	list := []map[string]any{}
	for _, pid := range slices.Sorted(maps.Keys(sys.processes)) {
		p := sys.processes[pid]
		list = append(list, map[string]any{
			"ProcessId": pid, "ImageName": base(strings.Trim(strings.Fields(p.command + " ?")[0], `"`)),
			"CreateTimestamp": p.began.UTC().Format(time.RFC3339Nano), "MemoryCommitBytes": 8 << 20,
			"MemoryWorkingSetPrivateBytes": 4 << 20, "UserTime100ns": 100_000, "KernelTime100ns": 50_000,
		})
	}
	return list
}
