package microvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

const (
	// settleTime is how long a booted guest may go on by itself before it is saved: its kernel has things to finish
	// that every clone would have to finish again.
	settleTime = 1500 * time.Millisecond
	// saveTimeout bounds the saving of a template; a dozen milliseconds are usual.
	saveTimeout = 30 * time.Second
)

// template is a guest that was saved when its agent was ready and had opened no disk. Its memory holds the kernel and
// the agent, and nothing of any job.
type template struct {
	shape         shape
	dir           string // where it is kept
	memory, state *os.File
}

func (t *template) close() error { return errors.Join(t.memory.Close(), t.state.Close()) }

// templates are those of one Runtime. The zero value but for dir is ready.
type templates struct {
	dir string

	mutex    sync.Mutex
	ready    map[shape]*template
	bad      []*template // thrown away; others may be restoring them still
	building map[shape]chan struct{}
	cancel   []context.CancelFunc
	closed   bool
	builders sync.WaitGroup
}

// template returns the template of a shape if there is one, in memory or on disk; else it begins to make one, beside
// the job that asks, and returns nil.
func (r *Runtime) template(s shape) *template {
	if r.options.NoTemplates {
		b := r.booted()
		touch(filepath.Join(r.boots, b.Kernel), filepath.Join(r.boots, b.Initramfs))
		return nil
	}
	t, _ := r.makeTemplate(s)
	return t
}

// Warm returns when the template for sandboxes with these limits is ready and as many of its clones wait as Options.Pool
// says; from then on so many always do, but for the moments after one was taken. network says whether the sandboxes have
// one.
func (r *Runtime) Warm(ctx context.Context, limits isolation.Limits, network bool) error {
	if _, err := r.Probe(ctx); err != nil || r.options.NoTemplates {
		return err
	}
	_, _ = r.ProcessorVariant(ctx) // so that no job waits for it; one that needs it asks again
	s := shapeOf(limits, isolation.Network{})
	s.network = network
	if _, err := r.awaitTemplate(ctx, s); err != nil {
		return err
	}
	return r.awaitPool(ctx, s)
}

// awaitTemplate returns the template of a shape when there is one.
func (r *Runtime) awaitTemplate(ctx context.Context, s shape) (*template, error) {
	t, building := r.makeTemplate(s)
	if t != nil {
		return t, nil
	}
	if building == nil {
		return nil, fault.Systemf("the runtime was closed")
	}
	select {
	case <-building:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if t = r.templates.get(s); t == nil {
		return nil, fault.Systemf("no template could be made; the log says why")
	}
	return t, nil
}

func (t *templates) get(s shape) *template {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.ready[s]
}

// makeTemplate returns the template of a shape, from disk if need be, or what is closed when the attempt to make one has
// ended; nothing once the runtime is closed.
func (r *Runtime) makeTemplate(s shape) (*template, chan struct{}) {
	b := r.booted()
	touch(filepath.Join(r.boots, b.Kernel), filepath.Join(r.boots, b.Initramfs))
	t := &r.templates
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.ready[s] != nil {
		touch(t.ready[s].dir)
	}
	if t.ready[s] != nil || t.building[s] != nil || t.closed {
		return t.ready[s], t.building[s]
	}
	if t.ready == nil {
		t.ready, t.building = map[shape]*template{}, map[shape]chan struct{}{}
	}
	if kept, err := r.loadTemplate(s); err == nil {
		t.ready[s] = kept
		return kept, nil
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), bootTimeout+saveTimeout, errors.New("making a template took too long"))
	ended := make(chan struct{})
	t.building[s] = ended
	t.cancel = append(t.cancel, cancel)
	t.builders.Go(func() {
		defer cancel()
		made, err := r.bootTemplate(ctx, s)
		if err != nil && ctx.Err() == nil {
			r.logger.Warn().Err(err).Int64("memory", s.memory).Int("cpus", s.cpus).Msg("no template could be made: machines of this shape are booted")
		}
		t.mutex.Lock()
		defer t.mutex.Unlock()
		delete(t.building, s)
		if err == nil {
			t.ready[s] = made
			r.logger.Info().Int64("memory", s.memory).Int("cpus", s.cpus).Bool("network", s.network).Msg("template made: sandboxes are cloned from now on")
		}
		close(ended)
	})
	return nil, ended
}

// discard throws a template away, for good.
func (t *templates) discard(bad *template) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.ready[bad.shape] != bad {
		return // somebody else did
	}
	delete(t.ready, bad.shape)
	t.bad = append(t.bad, bad)
	_ = os.RemoveAll(bad.dir) // what stays is found and thrown away once more
}

// close ends what is being made. Templates that are kept on disk stay.
func (t *templates) close() {
	t.mutex.Lock()
	t.closed = true
	for _, cancel := range t.cancel {
		cancel()
	}
	t.mutex.Unlock()
	t.builders.Wait()
	t.mutex.Lock()
	defer t.mutex.Unlock()
	for _, ready := range t.ready {
		_ = ready.close() // the kernel closes it, whatever it says
	}
	for _, bad := range t.bad {
		_ = bad.close()
	}
	t.ready, t.bad = nil, nil
}

// newTemplate returns a template without content.
func (r *Runtime) newTemplate(s shape) (made *template, err error) {
	name, err := r.templateName(s)
	if err != nil {
		return nil, err
	}
	t := &template{shape: s, dir: filepath.Join(r.templates.dir, name)}
	undo := cleanup.New(context.Background())
	defer undo.Run(&err)
	if t.memory, err = newMemory(s.memory); err != nil {
		return nil, err
	}
	undo.Push(t.memory.Close)
	if t.state, err = newMemory(0); err != nil {
		return nil, err
	}
	undo.Release()
	return t, nil
}

// loadTemplate takes the template of a shape from disk, tens of milliseconds.
func (r *Runtime) loadTemplate(s shape) (*template, error) {
	t, err := r.newTemplate(s)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(t.load(), seal(t.memory), seal(t.state)); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// bootTemplate boots the template of a shape, seconds.
func (r *Runtime) bootTemplate(ctx context.Context, s shape) (made *template, err error) {
	t, err := r.newTemplate(s)
	if err != nil {
		return nil, err
	}
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	undo.Push(t.close)
	if err := r.saveGuest(ctx, t); err != nil {
		return nil, err
	}
	if err := errors.Join(seal(t.memory), seal(t.state), r.templates.keep(t)); err != nil {
		return nil, err
	}
	undo.Release()
	return t, nil
}

// templateName changes when anything changes that a template is made from, or restored with.
func (r *Runtime) templateName(s shape) (string, error) {
	program, err := fingerprint(r.options.QEMU)
	if err != nil {
		return "", err
	}
	m := machine{accel: r.accelerator(), shape: s, boot: r.booted(), memory: 1, incoming: true}
	booted := *m.boot
	booted.tscKHz = 0 // measured, so it is never the same
	m.boot = &booted
	content, err := json.Marshal([]any{program, m.arguments(), processor()})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return shapePrefix(s) + hex.EncodeToString(sum[:16]), nil
}

func shapePrefix(s shape) string { return fmt.Sprintf("%dM-%d-%t-", s.memory>>20, s.cpus, s.network) }

// processor names the host's processor and what it can do: a guest has seen it.
func processor() string {
	content, _ := os.ReadFile("/proc/cpuinfo") // without it, an upgrade of the host is noticed by a failing restore
	var b strings.Builder
	for line := range strings.Lines(string(content)) {
		if strings.TrimSpace(line) == "" {
			break // the others are the same
		}
		if strings.HasPrefix(line, "model name") || strings.HasPrefix(line, "flags") || strings.HasPrefix(line, "microcode") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// saveGuest boots a guest and saves it: its memory is the template's as it is, as it was mapped shared, and QEMU writes
// the rest of its state.
func (r *Runtime) saveGuest(ctx context.Context, t *template) error {
	memory, err := reopenForWriting(t.memory)
	if err != nil {
		return err
	}
	files := &descriptors{}
	m := machine{accel: r.accelerator(), shape: t.shape, boot: r.booted(), memory: files.add(memory), shared: true}
	v, err := startVM(r.jailed(), "template", m, files)
	if err != nil {
		return err
	}
	defer v.kill()
	stop := context.AfterFunc(ctx, func() { _ = v.command.Process.Kill() })
	defer stop()
	if _, err := v.monitor.run(capabilitiesCommand); err != nil {
		return v.explain(ctx, err)
	}
	if err := agent.AwaitGuest(ctx, v.agent); err != nil {
		return v.explain(ctx, err)
	}
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := v.save(ctx, t); err != nil {
		return v.explain(ctx, fmt.Errorf("saving a template: %w", err))
	}
	return nil
}

func reopenForWriting(file *os.File) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_RDWR, 0)
}

// ignoreShared leaves memory that is mapped shared out of what is saved and restored.
var ignoreShared = command{Execute: "migrate-set-capabilities", Arguments: map[string]any{
	"capabilities": []map[string]any{{"capability": "x-ignore-shared", "state": true}},
}}

// save lets QEMU write the state of the machine to the template.
func (v *vm) save(ctx context.Context, t *template) error {
	_, err := v.monitor.run(ignoreShared,
		command{Execute: "getfd", Arguments: map[string]any{"fdname": "state"}, file: int(t.state.Fd())},
		command{Execute: "migrate", Arguments: map[string]any{"uri": "fd:state"}})
	if err != nil {
		return err
	}
	return v.awaitSaved(ctx)
}

// awaitSaved polls until all state is written.
func (v *vm) awaitSaved(ctx context.Context) error {
	for began := time.Now(); time.Since(began) < saveTimeout; time.Sleep(5 * time.Millisecond) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		results, err := v.monitor.run(command{Execute: "query-migrate"})
		if err != nil {
			return err
		}
		var progress struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := json.Unmarshal(results[0], &progress); err != nil {
			return err
		}
		switch progress.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU says %s %s", progress.Status, plain(progress.Error))
		}
	}
	return fmt.Errorf("it took longer than %s", saveTimeout)
}

const memoryFile, stateFile = "memory", "state"

// keep writes a template to disk, for later executors, and removes those of its shape that it replaces.
func (t *templates) keep(made *template) error {
	temporary, err := os.MkdirTemp(t.dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temporary) }()
	for name, from := range map[string]*os.File{memoryFile: made.memory, stateFile: made.state} {
		to, err := os.Create(filepath.Join(temporary, name))
		if err != nil {
			return err
		}
		if err := errors.Join(copySparse(to, from), to.Close()); err != nil {
			return fmt.Errorf("keeping a template: %w", err)
		}
	}
	old, err := filepath.Glob(filepath.Join(t.dir, shapePrefix(made.shape)+"*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return errors.Join(os.Rename(temporary, made.dir), removeUnused(filepath.Join(t.dir, "*")))
}

// load reads a template from disk.
func (t *template) load() error {
	for name, to := range map[string]*os.File{memoryFile: t.memory, stateFile: t.state} {
		from, err := os.Open(filepath.Join(t.dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(copySparse(to, from), from.Close()); err != nil {
			return fmt.Errorf("loading a template: %w", err)
		}
	}
	if info, err := t.memory.Stat(); err != nil || info.Size() != t.shape.memory {
		return errors.Join(err, errors.New("the template's memory has another size"))
	}
	return nil
}
