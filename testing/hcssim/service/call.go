package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Layer is one descriptor of a layer that a call carries.
type Layer struct {
	ID   GUID
	Path string
}

// call is a call in the making.
type call struct {
	client   *Client
	function string
	held     privileges
	args     []any // string, uint64, GUID, []Layer, as the function's format says
	// after runs when the reply is on its way: notifications that come behind the call's return.
	after []func()
	// before runs when the call was done, before its reply, with the service unlocked.
	before []func()
	fault  *Fault
}

func (c *call) text(i int) string    { s, _ := c.args[i].(string); return s }
func (c *call) number(i int) uint64  { n, _ := c.args[i].(uint64); return n }
func (c *call) guid(i int) GUID      { g, _ := c.args[i].(GUID); return g }
func (c *call) layers(i int) []Layer { l, _ := c.args[i].([]Layer); return l }

// privileges are the privileges that the calling thread has enabled.
type privileges uint64

const (
	backupPrivilege  privileges = 1
	restorePrivilege privileges = 2
)

// function is one function of the DLLs.
type function struct {
	// in is the format of the arguments, as in dll/hcssim.c: w string, n number, g GUID, l layers.
	in string
	// out are the results of the same format, without the result document: they are zero when the call fails.
	out string
	// document says that the function also returns a result document.
	document bool
	// do makes the call. It runs with the service locked.
	do func(*Service, *call) ([]any, error)
}

// Call is one call as it was traced.
type Call struct {
	// At is when it came, since the machine's start; Took is until its reply.
	At, Took time.Duration
	// PID is the client's process.
	PID      uint64
	Function string
	Args     []string
	HRESULT  HRESULT
	// Results are what the call gave beside its HRESULT.
	Results []string
	// Fault is the name of the fault that hit it, Refusal why it was refused.
	Fault, Refusal string
}

// String returns the call on one line.
func (c Call) String() string {
	line := fmt.Sprintf("%8.3fs %d %s(%s) = 0x%08X", c.At.Seconds(), c.PID, c.Function, strings.Join(c.Args, ", "), uint32(c.HRESULT))
	if len(c.Results) > 0 {
		line += " " + strings.Join(c.Results, ", ")
	}
	if c.Fault != "" {
		line += " [fault " + c.Fault + "]"
	}
	if c.Refusal != "" {
		line += " [" + c.Refusal + "]"
	}
	return line
}

// Invoke makes the call that a client's message asks for, and returns the values of the reply, and what to do when it
// was sent.
func (s *Service) Invoke(client *Client, fields [][]byte) (reply []any, after func()) {
	c := &call{client: client}
	f, err := c.decode(fields)
	if err != nil {
		s.record(Call{PID: client.PID, Function: c.function, HRESULT: NotImplemented, Refusal: err.Error()}, err)
		return []any{NotImplemented}, func() {}
	}
	s.mu.Lock()
	traced := Call{At: time.Since(s.began), PID: client.PID, Function: c.function, Args: c.describe()}
	s.mu.Unlock()
	results, err := s.perform(c, f, &traced)
	traced.Took = time.Since(s.began) - traced.At
	traced.HRESULT = OK
	if err != nil {
		traced.HRESULT, traced.Refusal = resultOf(err), err.Error()
	} else if c.pending() {
		traced.HRESULT = Pending
	}
	if err == nil {
		for _, value := range results {
			traced.Results = append(traced.Results, fmt.Sprint(value))
		}
	}
	s.record(traced, err)
	reply = append(reply, traced.HRESULT)
	for i, kind := range f.out {
		if err == nil {
			reply = append(reply, results[i])
			continue
		}
		reply = append(reply, map[rune]any{'w': "", 'n': uint64(0), 'g': GUID{}}[kind])
	}
	if f.document {
		reply = append(reply, s.document(c, err))
	}
	for _, do := range c.before {
		do()
	}
	after = func() {
		for _, do := range c.after {
			do()
		}
	}
	if c.fault != nil && c.fault.KillAfter {
		go after()
		s.kill(client)
		<-s.ended
		return reply, func() {}
	}
	return reply, after
}

// pending says whether the call's work goes on behind its return: hcsshim waits for a notification then.
func (c *call) pending() bool { return asynchronous[c.function] }

// decode reads a message's fields by the function's format.
func (c *call) decode(fields [][]byte) (function, error) {
	if len(fields) < 2 {
		return function{}, broken(RuleFunction, NotImplemented, "a call of %d fields", len(fields))
	}
	c.function, c.held = string(fields[0]), privileges(DecodeNumber(fields[1]))
	f, ok := functions[c.function]
	if !ok {
		return f, broken(RuleFunction, NotImplemented, "%s is not simulated", c.function)
	}
	fields = fields[2:]
	next := func() (field []byte) {
		if len(fields) > 0 {
			field, fields = fields[0], fields[1:]
		}
		return field
	}
	for _, kind := range f.in {
		switch kind {
		case 'w':
			c.args = append(c.args, DecodeString(next()))
		case 'n':
			c.args = append(c.args, DecodeNumber(next()))
		case 'g':
			var g GUID
			copy(g[:], next())
			c.args = append(c.args, g)
		case 'l':
			layers := make([]Layer, 0, 8)
			for count := DecodeNumber(next()); count > 0 && len(fields) > 0; count-- {
				var layer Layer
				copy(layer.ID[:], next())
				next() // flags
				layer.Path = DecodeString(next())
				layers = append(layers, layer)
			}
			c.args = append(c.args, layers)
		}
	}
	return f, nil
}

// describe returns the arguments as text; a handle with what it is one of. The service is locked.
func (c *call) describe() []string {
	var args []string
	for _, arg := range c.args {
		switch v := arg.(type) {
		case []Layer:
			var paths []string
			for _, layer := range v {
				paths = append(paths, layer.Path)
			}
			args = append(args, "["+strings.Join(paths, " ")+"]")
		case uint64:
			text := fmt.Sprintf("%#x", v)
			if object := c.client.handles[v]; object != nil {
				text += " (" + describe(object) + ")"
			}
			args = append(args, text)
		default:
			args = append(args, fmt.Sprint(v))
		}
	}
	return args
}

// perform lets the faults have the call first, then does it.
func (s *Service) perform(c *call, f function, traced *Call) ([]any, error) {
	if err := s.strike(c, traced); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.answers(c.client); err != nil {
		return nil, err
	}
	return f.do(s, c)
}

// answers says why a client's calls are not done, if they are not: what it asked for last may come when it is dead, or
// the machine at its end. The service is locked.
func (s *Service) answers(client *Client) error {
	select {
	case <-s.ended:
		return refuse(ServiceGone, "the machine has ended")
	default:
	}
	switch {
	case s.stopped:
		return refuse(ServiceGone, "the service is stopped")
	case !s.clients[client]:
		return refuse(ServiceGone, "the process %d has ended", client.PID)
	}
	return nil
}

// record keeps a call for Trace, and a breach of a rule for Broken.
func (s *Service) record(traced Call, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, traced)
	if refusal, ok := errors.AsType[*Refusal](err); ok && refusal.Rule != "" {
		s.broken = append(s.broken, fmt.Errorf("%s: %w", traced.Function, err))
		s.config.Log("refused: %s", traced)
	} else if traced.Fault != "" {
		s.config.Log("fault: %s", traced)
	}
}

// document makes the result document of a call. hcsshim reads it of every call; the network functions take any text at
// all for an error (hcn/hcnerrors.go, checkForErrors), so that success has none there.
func (s *Service) document(c *call, err error) string {
	if err == nil {
		if strings.HasPrefix(c.function, "Hcs") && s.vary.chance("empty result document") {
			return `{"Error":0,"ErrorMessage":""}`
		}
		return ""
	}
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		refusal = &Refusal{HRESULT: resultOf(err), Message: err.Error()}
	}
	text, _ := json.Marshal(map[string]any{
		"Error":        int32(refusal.HRESULT),
		"ErrorMessage": refusal.Message,
		"Success":      false,
		"ErrorCode":    int64(refusal.HRESULT),
		"ErrorEvents":  []any{map[string]any{"Message": refusal.Message, "Provider": "hcssim", "Source": string(refusal.Rule)}},
	})
	return string(text)
}

// Trace returns the calls so far, oldest first.
func (s *Service) Trace() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.trace...)
}

// Broken returns the breaches of rules since it was asked last, oldest first.
func (s *Service) Broken() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.broken
	s.broken = nil
	return all
}
