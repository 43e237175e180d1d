package standin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
)

// Executor is what the stand-in answers. Its fields are set before Serve, or between two calls.
type Executor struct {
	// Protocol is what it says that it speaks; 0 means the right one.
	Protocol  uint32
	Sandboxes []*api.SandboxInfo
	ImageList []*api.ImageInfo
	// EventLines are the kept events; Following, when not nil, is sent after them to a follower.
	EventLines []string
	Following  <-chan string
	Leftovers  []*api.Leftover
	// Fail, when not nil, is the error of every call but the greeting.
	Fail error
	// Log is written to stderr of every sandbox before its command starts.
	Log string

	mu       sync.Mutex
	calls    []Opened
	imported bytes.Buffer
}

// Opened is a call as it was made.
type Opened struct {
	Op   api.Op
	Body json.RawMessage
}

// Serve serves e on a socket of its own until the test ends, and returns the socket's path.
func Serve(t testing.TB, e *Executor) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "host.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	t.Cleanup(Accept(listener, e.version, e.handle))
	return socket
}

// Opened returns all calls so far.
func (e *Executor) Opened() []Opened {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.calls)
}

// Imported returns all that was imported.
func (e *Executor) Imported() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bytes.Clone(e.imported.Bytes())
}

func (e *Executor) version() (api.Version, error) {
	protocol := e.Protocol
	if protocol == 0 {
		protocol = api.ProtocolVersion
	}
	return api.Version{Protocol: protocol, Version: "v0.0.0-test", Instance: "instance-1", ConfigPath: "/etc/airlock/config.toml"}, nil
}

// handle is an api.Handler.
func (e *Executor) handle(ctx context.Context, call *api.Call) (int, error) {
	opened := Opened{Op: call.Op}
	if err := call.Decode(&opened.Body); err != nil {
		return 0, err
	}
	e.mu.Lock()
	e.calls = append(e.calls, opened)
	e.mu.Unlock()
	if e.Fail != nil {
		return 0, e.Fail
	}
	switch call.Op {
	case api.OpSandbox:
		return e.sandbox(ctx, call)
	case api.OpShell:
		var shell api.Shell
		if err := call.Decode(&shell); err != nil {
			return 0, err
		}
		return runCommand(ctx, session{shell.Command, nil, shell.TTY, shell.Size}, call.Streams)
	case api.OpPull:
		var pull api.Pull
		if err := call.Decode(&pull); err != nil {
			return 0, err
		}
		_, err := fmt.Fprintf(call.Stdout, "pulling %s\n", pull.Image)
		return 0, err
	case api.OpImport:
		return 0, e.importImage(call.Stdin)
	case api.OpEvents:
		return 0, e.events(ctx, call)
	default:
		return 0, e.answer(call)
	}
}

func (e *Executor) sandbox(ctx context.Context, call *api.Call) (int, error) {
	var sandbox api.Sandbox
	if err := call.Decode(&sandbox); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(call.Stderr, e.Log); err != nil {
		return 0, err
	}
	return runCommand(ctx, session{sandbox.Command, sandbox.Env, sandbox.TTY, sandbox.Size}, call.Streams)
}

func (e *Executor) importImage(tar io.Reader) error {
	content, err := io.ReadAll(tar)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.imported.Write(content)
	return err
}

func (e *Executor) events(ctx context.Context, call *api.Call) error {
	var events api.Events
	if err := call.Decode(&events); err != nil {
		return err
	}
	for _, line := range e.EventLines {
		if !strings.Contains(line, events.Job) {
			continue
		}
		if _, err := fmt.Fprintln(call.Stdout, line); err != nil {
			return err
		}
	}
	for events.Follow {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, ok := <-e.Following:
			if !ok {
				return nil
			}
			if _, err := fmt.Fprintln(call.Stdout, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// answer answers an administrator's question.
func (e *Executor) answer(call *api.Call) error {
	switch call.Op {
	case api.ListSandboxes.Op:
		return answer(call, api.ListSandboxes, func(api.Nothing) ([]*api.SandboxInfo, error) { return e.Sandboxes, nil })
	case api.InspectOne.Op:
		return answer(call, api.InspectOne, e.inspect)
	case api.ListImages.Op:
		return answer(call, api.ListImages, e.images)
	case api.RemoveImage.Op:
		return answer(call, api.RemoveImage, e.removeImage)
	case api.PinImage.Op:
		return answer(call, api.PinImage, e.pinImage)
	case api.Reap.Op:
		return answer(call, api.Reap, e.reap)
	default:
		return fmt.Errorf("unexpected call %q", call.Op)
	}
}

func answer[Q, A any](call *api.Call, question api.Question[Q, A], do func(Q) (A, error)) error {
	var asked Q
	if err := call.Decode(&asked); err != nil {
		return err
	}
	answered, err := do(asked)
	if err != nil {
		return err
	}
	return api.Answer(call, question, answered)
}

func (e *Executor) inspect(req api.InspectRequest) (*api.SandboxInfo, error) {
	for _, s := range e.Sandboxes {
		if req.Job == s.ID || req.Job == fmt.Sprint(s.JobID) {
			return s, nil
		}
	}
	return nil, api.Administrator(fmt.Errorf("no living sandbox of job %q (airlock ps lists them)", req.Job))
}

func (e *Executor) images(api.Nothing) (*api.Images, error) {
	reply := &api.Images{Images: e.ImageList, LimitBytes: 10 << 30, LimitInodes: 100_000}
	for _, image := range e.ImageList {
		reply.UsedBytes += image.SizeBytes
		reply.UsedInodes += image.Inodes
		if image.Pinned {
			reply.PinnedBytes += image.SizeBytes
			reply.PinnedInodes += image.Inodes
		}
	}
	return reply, nil
}

func (e *Executor) find(name string) (*api.ImageInfo, error) {
	for _, image := range e.ImageList {
		if name == image.Name || name == image.Digest {
			return image, nil
		}
	}
	return nil, api.Administrator(fmt.Errorf("image %q is not in the cache", name))
}

func (e *Executor) pinImage(req api.PinRequest) (api.Nothing, error) {
	image, err := e.find(req.Image)
	if err == nil {
		image.Pinned = req.Pinned
	}
	return api.Nothing{}, err
}

func (e *Executor) removeImage(req api.ImageRequest) (api.RemovedImage, error) {
	image, err := e.find(req.Image)
	if err == nil && image.Leases > 0 {
		err = api.Administrator(fmt.Errorf("image %s is in use (sandboxes: %d)", req.Image, image.Leases))
	}
	if err != nil {
		return api.RemovedImage{}, err
	}
	return api.RemovedImage{FreedBytes: image.SizeBytes}, nil
}

func (e *Executor) reap(req api.ReapRequest) ([]*api.Leftover, error) {
	var leftovers []*api.Leftover
	for _, l := range e.Leftovers {
		l := *l
		l.Removed = !req.DryRun && l.Error == ""
		leftovers = append(leftovers, &l)
	}
	return leftovers, nil
}

// Failure returns an error of a class: "author", "admin" or "system".
func Failure(class, message string) error {
	err := errors.New(message)
	switch class {
	case "author":
		return api.Author(err)
	case "admin":
		return api.Administrator(err)
	default:
		return err
	}
}
