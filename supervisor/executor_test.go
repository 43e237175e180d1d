//go:build linux

package supervisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
	realexecutor "github.com/airlock-ci/airlock/executor"
	"github.com/airlock-ci/airlock/internal/fault"
)

// script is the test executor's configuration file.
type script struct {
	Protocol uint32   // 0: the right one
	Broken   bool     // refuse to reload
	Bound    []string // runner classes with a socket of their own
	StartDie bool     // end before serving
	Notes    string   // a directory for what tests want to see
}

// executorMain is an executor whose backend does what the call's stage or command says.
func executorMain() error {
	args, err := control.ParseArgs(os.Args[1:])
	if err != nil {
		return err
	}
	lock, err := control.Begin(args)
	if err != nil {
		return err
	}
	defer lock.Release()
	events := realexecutor.NewEventLog(100, 1<<20, os.Stderr)
	defer events.Close()
	b := &backend{config: args.Config, EventLog: events, log: zerolog.New(events).With().Timestamp().Logger()}
	if err := b.read(&b.script); err != nil {
		return err
	}
	if b.script.StartDie {
		return errors.New("told to die at the start")
	}
	b.instance = fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())
	b.log.Info().Str("sandbox", "al-000000000001").Strs("environment", os.Environ()).Msg("the test executor serves")
	err = realexecutor.Serve(context.Background(), realexecutor.Options{Backend: b, Logger: b.log, TLSDir: args.TLSDir})
	b.note("stopped", "clean")
	return err
}

type backend struct {
	*realexecutor.EventLog
	config   string
	instance string
	script   script
	log      zerolog.Logger

	mu        sync.Mutex
	sandboxes []string
}

func (b *backend) read(s *script) error {
	text, err := os.ReadFile(b.config)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, s)
}

// note leaves a file for the test.
func (b *backend) note(name, text string) {
	path := filepath.Join(b.script.Notes, name)
	_ = os.WriteFile(path+".new", []byte(text), 0o600)
	_ = os.Rename(path+".new", path)
}

func (b *backend) noted(name string) bool {
	_, err := os.Stat(filepath.Join(b.script.Notes, name))
	return err == nil
}

// pause notes that it has come so far, and waits for the test to note "go on".
func (b *backend) pause(ctx context.Context, name string) error {
	b.note(name, "")
	for !b.noted("go on") {
		select {
		case <-ctx.Done():
			return fault.Systemf("cancelled: %w", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// BoundClasses is asked for by every prepare, so that a reload is seen at once.
func (b *backend) BoundClasses() []string {
	var s script
	if err := b.read(&s); err != nil {
		return nil
	}
	return s.Bound
}

func (b *backend) Version() api.Version {
	protocol := b.script.Protocol
	if protocol == 0 {
		protocol = api.ProtocolVersion
	}
	return api.Version{Protocol: protocol, Version: "test", Instance: b.instance, ConfigPath: b.config}
}

func (b *backend) Prepare(ctx context.Context, req *api.Prepare, response []byte, log io.Writer) error {
	if class := req.RunnerClass; class != "" {
		_, _ = fmt.Fprintf(log, "class %q of user %d\n", class, req.RunnerUID)
	}
	_, _ = fmt.Fprintf(log, "%d bytes of response\n", len(response))
	if bytes.Contains(response, []byte("slow")) {
		if err := b.pause(ctx, "preparing"); err != nil {
			return err
		}
		_, _ = io.WriteString(log, "prepared slowly\n")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sandboxes = append(b.sandboxes, req.Handle)
	return nil
}

func (b *backend) Cleanup(_ context.Context, req *api.Cleanup) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sandboxes = nil
	b.note("cleaned", req.Handle)
	return nil
}

func (b *backend) Run(ctx context.Context, req *api.Run, text []byte, streams api.Streams) (int32, error) {
	return b.act(ctx, req.Stage, text, streams)
}

func (b *backend) Sandbox(ctx context.Context, req *api.Sandbox, streams api.Streams) (int32, error) {
	return b.act(ctx, strings.Join(req.Command, " "), nil, streams)
}

func (b *backend) Shell(ctx context.Context, req *api.Shell, streams api.Streams) (int32, error) {
	for {
		select {
		case size, open := <-streams.Resizes:
			if !open {
				return 0, ctx.Err()
			}
			_, _ = fmt.Fprintf(streams.Stdout, "%d x %d\n", size.Rows, size.Columns)
		case signal := <-streams.Signals:
			return int32(128 + signal), nil
		case <-ctx.Done():
			return 0, fault.Systemf("cancelled: %w", context.Cause(ctx))
		}
	}
}

func (b *backend) act(ctx context.Context, what string, text []byte, streams api.Streams) (int32, error) {
	verb, argument, _ := strings.Cut(what, " ")
	b.note("begun "+verb, "")
	switch verb {
	case "echo":
		_, _ = streams.Stdout.Write(text)
		_, _ = io.WriteString(streams.Stderr, "on stderr")
		return 3, nil
	case "hash": // of stdin
		hash := sha256.New()
		n, err := io.Copy(hash, streams.Stdin)
		if err != nil {
			return 0, fault.Systemf("stdin: %w", err)
		}
		_, _ = fmt.Fprintf(streams.Stdout, "%d %s", n, hex.EncodeToString(hash.Sum(nil)))
		return 0, nil
	case "flood":
		return b.flood(ctx, argument, streams)
	case "noise":
		return b.noise(argument, streams)
	case "hang":
		_, _ = io.WriteString(streams.Stdout, "hanging")
		<-ctx.Done()
		b.note("cause", context.Cause(ctx).Error())
		return 0, fault.Systemf("cancelled: %w", context.Cause(ctx))
	case "hush": // hang without a word
		b.note("hushed", "")
		<-ctx.Done()
		return 0, fault.Systemf("cancelled: %w", context.Cause(ctx))
	case "signal":
		_, _ = io.WriteString(streams.Stdout, "waiting")
		return int32(128 + <-streams.Signals), nil
	case "panic":
		panic("told to panic")
	case "author":
		return 0, fault.Authorf("the author's fault")
	case "admin":
		return 0, fault.WithRemedy(fault.Adminf("the administrator's fault"), "do better")
	default:
		return 0, errors.New("nobody classified this")
	}
}

// flood writes so many MiB to both streams at once, 0 for ever, and notes why it had to stop.
func (b *backend) flood(ctx context.Context, mib string, streams api.Streams) (int32, error) {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return 0, err
	}
	var writers sync.WaitGroup
	for i, w := range []io.Writer{streams.Stdout, streams.Stderr} {
		writers.Add(1)
		go func() {
			defer writers.Done()
			chunk := []byte(strings.Repeat(string(rune('a'+i)), 1<<20))
			for written := 0; n == 0 || written < n; written++ {
				if _, err := w.Write(chunk); err != nil {
					<-ctx.Done()
					b.note("cause", context.Cause(ctx).Error())
					return
				}
			}
		}()
	}
	writers.Wait()
	return 0, nil
}

// noise writes so many MiB of noise to both streams at once; it ends with status 42.
func (b *backend) noise(mib string, streams api.Streams) (int32, error) {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return 0, err
	}
	failures := make(chan error, 2)
	for i, w := range []io.Writer{streams.Stdout, streams.Stderr} {
		go func() {
			_, err := io.Copy(w, noise(i, n))
			failures <- err
		}()
	}
	return 42, errors.Join(<-failures, <-failures)
}

// noise is what the verb of that name writes to a stream, 0 or 1.
func noise(stream, mib int) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{byte(stream)}), int64(mib)<<20)
}

func (b *backend) PullImage(ctx context.Context, req *api.Pull, progress io.Writer) error {
	if req.Image == "slow" {
		if err := b.pause(ctx, "pulling"); err != nil {
			return err
		}
	}
	_, err := io.WriteString(progress, "pulling "+req.Image)
	return err
}

// ImportImage takes its time over the first bytes, as a disk may.
func (b *backend) ImportImage(_ context.Context, _ *api.Import, tar io.Reader, progress io.Writer) error {
	var first [1]byte
	if _, err := io.ReadFull(tar, first[:]); err != nil {
		return fault.Systemf("reading: %w", err)
	}
	time.Sleep(2500 * time.Millisecond)
	hash := sha256.New()
	_, _ = hash.Write(first[:])
	n, err := io.Copy(hash, tar)
	if err != nil {
		return fault.Systemf("reading: %w", err)
	}
	_, err = fmt.Fprintf(progress, "%d %s", n+1, hex.EncodeToString(hash.Sum(nil)))
	return err
}

func (b *backend) List(context.Context) ([]*api.SandboxInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*api.SandboxInfo
	for _, handle := range b.sandboxes {
		list = append(list, &api.SandboxInfo{ID: handle})
	}
	return list, nil
}

func (b *backend) Inspect(_ context.Context, job string) (*api.SandboxInfo, error) {
	return nil, fault.Adminf("no sandbox of job %q lives", job)
}

func (b *backend) Images(context.Context) (*api.Images, error) {
	return &api.Images{
		Images: []*api.ImageInfo{{}}, LimitBytes: 7, UsedBytes: 6, LimitInodes: 500, UsedInodes: 400, PinnedBytes: 5, PinnedInodes: 30,
		FreeBytes: 1000, FreeInodes: 900, FloorBytes: 100, FloorInodes: 90, Evicted: 11, RefusedTooLarge: 12, RefusedNoRoom: 13,
	}, nil
}

func (b *backend) PinImage(_ context.Context, image string, pinned bool) error {
	b.note("pinned", fmt.Sprint(image, pinned))
	return nil
}

func (b *backend) RemoveImage(context.Context, string) (int64, error) { return 4711, nil }

func (b *backend) Reap(_ context.Context, dryRun bool) ([]*api.Leftover, error) {
	return []*api.Leftover{{Kind: "veth", Removed: !dryRun}}, nil
}

func (b *backend) Decisions() []*api.DecisionCount {
	return []*api.DecisionCount{{Rule: "trusted", Isolation: "process", Count: 3}, {Rule: "default", Isolation: "hypervisor", Count: 2}}
}

func (b *backend) Reload(context.Context) error {
	var s script
	if err := b.read(&s); err != nil {
		return fault.Adminf("reading the configuration: %w", err)
	}
	if s.Broken {
		return fault.Adminf("config.toml:3:1: unknown key \"memroy\"")
	}
	b.note("reloaded", "yes")
	return nil
}
