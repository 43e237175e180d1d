package hosttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
)

// Host is what the service answers. Its fields are set before Serve; Calls may be read at any time.
type Host struct {
	// Protocol is what Version says; 0 means the right one.
	Protocol  uint32
	Sandboxes []*api.SandboxInfo
	ImageList []*api.ImageInfo
	// EventLines are the kept events; Following, when not nil, is sent after them to a follower.
	EventLines []string
	Following  <-chan string
	Leftovers  []*api.Leftover
	// Fail, when not nil, is the error of every call but Version.
	Fail error
	// Result, when not nil, ends every Call instead of a command's.
	Result *api.Result
	// Log is written to stderr of every Sandbox call before its command starts.
	Log string

	mu       sync.Mutex
	calls    []*api.ClientFrame
	imported bytes.Buffer
}

// Serve serves h on a socket of its own until the test ends, and returns the socket's path.
func Serve(t testing.TB, h *Host) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "host.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	server, err := ttrpc.NewServer()
	require.NoError(t, err)
	hostpb.RegisterHostService(server, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(silent(), listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return socket
}

// silent is a context with a logger that drops what ttrpc says about clients that have gone.
func silent() context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return log.WithLogger(context.Background(), logrus.NewEntry(logger))
}

// Opened returns the opening frames of all calls so far.
func (h *Host) Opened() []*api.ClientFrame {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*api.ClientFrame(nil), h.calls...)
}

// Imported returns all that was imported.
func (h *Host) Imported() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Clone(h.imported.Bytes())
}

// Version implements hostpb.HostService.
func (h *Host) Version(context.Context, *api.VersionRequest) (*api.VersionReply, error) {
	protocol := h.Protocol
	if protocol == 0 {
		protocol = api.ProtocolVersion
	}
	return &api.VersionReply{Protocol: protocol, Version: "v0.0.0-test", Instance: "instance-1",
		ConfigPath: "/etc/airlock/config.toml"}, nil
}

// List implements hostpb.HostService.
func (h *Host) List(context.Context, *api.ListRequest) (*api.ListReply, error) {
	return &api.ListReply{Sandboxes: h.Sandboxes}, h.Fail
}

// Inspect implements hostpb.HostService.
func (h *Host) Inspect(_ context.Context, req *api.InspectRequest) (*api.SandboxInfo, error) {
	if h.Fail != nil {
		return nil, h.Fail
	}
	for _, s := range h.Sandboxes {
		if req.GetJob() == s.GetId() || req.GetJob() == fmt.Sprint(s.GetJobId()) {
			return s, nil
		}
	}
	return nil, status.Errorf(codes.FailedPrecondition, "no living sandbox of job %q (airlock ps lists them)", req.GetJob())
}

// Events implements hostpb.HostService.
func (h *Host) Events(ctx context.Context, req *api.EventsRequest, stream hostpb.Host_EventsServer) error {
	if h.Fail != nil {
		return h.Fail
	}
	for _, line := range h.EventLines {
		if req.GetJob() != "" && !bytes.Contains([]byte(line), []byte(req.GetJob())) {
			continue
		}
		if err := stream.Send(&api.Event{Json: []byte(line)}); err != nil {
			return err
		}
	}
	for req.GetFollow() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, ok := <-h.Following:
			if !ok {
				return nil
			}
			if err := stream.Send(&api.Event{Json: []byte(line)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Images implements hostpb.HostService.
func (h *Host) Images(context.Context, *api.ImagesRequest) (*api.ImagesReply, error) {
	reply := &api.ImagesReply{Images: h.ImageList, LimitBytes: 10 << 30, LimitInodes: 100_000}
	for _, image := range h.ImageList {
		reply.UsedBytes += image.GetSizeBytes()
		reply.UsedInodes += image.GetInodes()
		if image.GetPinned() {
			reply.PinnedBytes += image.GetSizeBytes()
			reply.PinnedInodes += image.GetInodes()
		}
	}
	return reply, h.Fail
}

// PinImage implements hostpb.HostService.
func (h *Host) PinImage(_ context.Context, req *api.PinImageRequest) (*api.PinImageReply, error) {
	for _, image := range h.ImageList {
		if req.GetImage() == image.GetName() || req.GetImage() == image.GetDigest() {
			image.Pinned = req.GetPinned()
			return &api.PinImageReply{}, nil
		}
	}
	return nil, status.Errorf(codes.FailedPrecondition, "image %q is not in the cache", req.GetImage())
}

// RemoveImage implements hostpb.HostService.
func (h *Host) RemoveImage(_ context.Context, req *api.RemoveImageRequest) (*api.RemoveImageReply, error) {
	for _, image := range h.ImageList {
		if req.GetImage() != image.GetName() && req.GetImage() != image.GetDigest() {
			continue
		}
		if image.GetLeases() > 0 {
			return nil, status.Errorf(codes.FailedPrecondition, "image %s is in use (sandboxes: %d)",
				req.GetImage(), image.GetLeases())
		}
		return &api.RemoveImageReply{FreedBytes: image.GetSizeBytes()}, nil
	}
	return nil, status.Errorf(codes.FailedPrecondition, "image %q is not in the cache", req.GetImage())
}

// Reap implements hostpb.HostService.
func (h *Host) Reap(_ context.Context, req *api.ReapRequest) (*api.ReapReply, error) {
	reply := &api.ReapReply{}
	for _, l := range h.Leftovers {
		reply.Leftovers = append(reply.Leftovers, &api.Leftover{Kind: l.GetKind(), Name: l.GetName(),
			Sandbox: l.GetSandbox(), Removed: !req.GetDryRun() && l.GetError() == "", Error: l.GetError()})
	}
	return reply, h.Fail
}

// Reload implements hostpb.HostService.
func (h *Host) Reload(context.Context, *api.ReloadRequest) (*api.ReloadReply, error) {
	return &api.ReloadReply{}, h.Fail
}

// Call implements hostpb.HostService.
func (h *Host) Call(ctx context.Context, stream hostpb.Host_CallServer) error {
	open, err := stream.Recv()
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.calls = append(h.calls, open)
	h.mu.Unlock()
	if h.Fail != nil {
		return h.Fail
	}
	result := h.Result
	if result == nil {
		result = h.perform(ctx, open, stream)
	}
	return stream.Send(&api.ServerFrame{Kind: &api.ServerFrame_Result{Result: result}})
}

// perform does what the opening frame asks for and returns the call's result.
func (h *Host) perform(ctx context.Context, open *api.ClientFrame, stream hostpb.Host_CallServer) *api.Result {
	out := frameWriter(func(p []byte) *api.ServerFrame {
		return &api.ServerFrame{Kind: &api.ServerFrame_Stdout{Stdout: p}}
	}, stream)
	errOut := frameWriter(func(p []byte) *api.ServerFrame {
		return &api.ServerFrame{Kind: &api.ServerFrame_Stderr{Stderr: p}}
	}, stream)
	switch kind := open.GetKind().(type) {
	case *api.ClientFrame_Sandbox:
		_, _ = io.WriteString(errOut, h.Log)
		s := kind.Sandbox
		return runCommand(ctx, session{s.GetCommand(), s.GetEnv(), s.GetTty(), s.GetSize()}, stream, out, errOut)
	case *api.ClientFrame_Shell:
		s := kind.Shell
		return runCommand(ctx, session{s.GetCommand(), nil, s.GetTty(), s.GetSize()}, stream, out, errOut)
	case *api.ClientFrame_Pull:
		_, _ = fmt.Fprintf(out, "pulling %s\n", kind.Pull.GetImage())
		return &api.Result{Ok: true}
	case *api.ClientFrame_Import:
		return h.receiveImport(stream)
	default:
		return &api.Result{Message: fmt.Sprintf("unexpected opening %T", kind)}
	}
}

func (h *Host) receiveImport(stream hostpb.Host_CallServer) *api.Result {
	for {
		frame, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF), frame.GetEnd():
			return &api.Result{Ok: true}
		case err != nil:
			return &api.Result{Message: err.Error()}
		}
		h.mu.Lock()
		h.imported.Write(frame.GetData())
		h.mu.Unlock()
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// frameWriter sends what is written as frames of at most MaxChunk bytes.
func frameWriter(frame func([]byte) *api.ServerFrame, stream hostpb.Host_CallServer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		for sent := 0; sent < len(p); {
			end := min(sent+api.MaxChunk, len(p))
			if err := stream.Send(frame(p[sent:end])); err != nil {
				return sent, err
			}
			sent = end
		}
		return len(p), nil
	})
}
