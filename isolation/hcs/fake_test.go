package hcs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

// fakeCompute stands in for the compute service: layers are directories, systems live in memory, and a process
// interprets its script, a word a line. It refuses what the service refuses: wrong order, wrong chains, names in use.
type fakeCompute struct {
	mu      sync.Mutex
	systems map[string]*fakeContainer
	layers  map[string]*fakeLayer // by directory
	calls   []string              // "Activate al-1.1"
	faults  []*fakeFault
	wrong   []string // uses that the service refuses
}

type fakeLayer struct {
	chain            []string
	active, prepared bool
	size             int64
}

// fakeFault makes calls fail. It matches the beginning of a call's line.
type fakeFault struct {
	call        string
	skip, times int
	code        uint32
	err         error
	hang        chan struct{} // waits for it before the call is done
}

func newFake() *fakeCompute {
	return &fakeCompute{systems: map[string]*fakeContainer{}, layers: map[string]*fakeLayer{}}
}

func (f *fakeCompute) fail(fault fakeFault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault)
}

// heal takes all faults back.
func (f *fakeCompute) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

func (f *fakeCompute) log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// enter records a call and does what a fault asks for.
func (f *fakeCompute) enter(op, name string) error {
	f.mu.Lock()
	line := op + " " + name
	f.calls = append(f.calls, line)
	var hit *fakeFault
	for _, fault := range f.faults {
		if !strings.HasPrefix(line, fault.call) || fault.times == 0 {
			continue
		}
		if fault.skip > 0 {
			fault.skip--
			continue
		}
		fault.times--
		hit = fault
		break
	}
	f.mu.Unlock()
	if hit == nil {
		return nil
	}
	if hit.hang != nil {
		<-hit.hang
	}
	if hit.code != 0 {
		return newCallError(op, hit.code, errors.New("injected"))
	}
	return hit.err
}

func (f *fakeCompute) count(call string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range f.calls {
		if strings.HasPrefix(line, call) {
			n++
		}
	}
	return n
}

// refuse notes a wrong use. The caller holds the lock.
func (f *fakeCompute) refuse(code uint32, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	f.wrong = append(f.wrong, message)
	return newCallError("fake", code, errors.New(message))
}

func (f *fakeCompute) layer(dir string, op string, change func(*fakeLayer) error) error {
	if err := f.enter(op, filepath.Base(dir)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.layers[dir]
	if l == nil {
		return newCallError(op, codePathNotFound, errors.New("no such layer"))
	}
	return change(l)
}

func (f *fakeCompute) CreateScratch(dir string, chain []string) error {
	if err := f.enter("CreateScratch", filepath.Base(dir)); err != nil {
		return err
	}
	for _, layer := range chain {
		if _, err := os.Stat(layer); err != nil {
			return newCallError("CreateScratch", codePathNotFound, err)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return newCallError("CreateScratch", 0xB7, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.layers[dir] = &fakeLayer{chain: chain, size: defaultScratch}
	return os.WriteFile(filepath.Join(dir, scratchDisk), nil, 0o600)
}

func (f *fakeCompute) ExpandScratch(dir string, bytes int64) error {
	return f.layer(dir, "ExpandScratch", func(l *fakeLayer) error { l.size = bytes; return nil })
}

func (f *fakeCompute) Activate(dir string) error {
	return f.layer(dir, "Activate", func(l *fakeLayer) error {
		if l.active {
			return f.refuse(codeSharing, "%s is active already", dir)
		}
		l.active = true
		return nil
	})
}

func (f *fakeCompute) Prepare(dir string, chain []string) error {
	return f.layer(dir, "Prepare", func(l *fakeLayer) error {
		if !l.active || l.prepared || !slices.Equal(chain, l.chain) {
			return f.refuse(codeNotReady, "%s is not ready to be prepared with %v", dir, chain)
		}
		l.prepared = true
		return nil
	})
}

func (f *fakeCompute) VolumePath(dir string) (volume string, err error) {
	err = f.layer(dir, "VolumePath", func(l *fakeLayer) error {
		volume = `\\?\Volume{` + filepath.Base(dir) + `}\`
		return nil
	})
	return volume, err
}

func (f *fakeCompute) Unprepare(dir string) error {
	return f.layer(dir, "Unprepare", func(l *fakeLayer) error {
		if !l.prepared {
			return newCallError("Unprepare", codeNotFound, errors.New("not prepared"))
		}
		for _, s := range f.systems {
			if s.document.Scratch == dir && !s.isDone() {
				return f.refuse(codeSharing, "%s is in use by %s", dir, s.id)
			}
		}
		l.prepared = false
		return nil
	})
}

func (f *fakeCompute) Deactivate(dir string) error {
	return f.layer(dir, "Deactivate", func(l *fakeLayer) error {
		if !l.active || l.prepared {
			return newCallError("Deactivate", codeNotFound, errors.New("not active, or prepared"))
		}
		l.active = false
		return nil
	})
}

func (f *fakeCompute) DestroyLayer(dir string) error {
	if err := f.enter("DestroyLayer", filepath.Base(dir)); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (f *fakeCompute) Rename(from, to string) error {
	if err := f.enter("Rename", filepath.Base(from)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.layers[from]; l != nil && (l.active || l.prepared) {
		return newCallError("Rename", codeAccessDenied, os.ErrPermission)
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	delete(f.layers, from)
	return nil
}

func (f *fakeCompute) DetachDisk(path string) error {
	return f.layer(filepath.Dir(path), "DetachDisk", func(l *fakeLayer) error { l.active, l.prepared = false, false; return nil })
}

func (f *fakeCompute) ShareScript(path string) error { return f.enter("ShareScript", path) }

func (f *fakeCompute) LayerID(dir string) (string, error) {
	return "guid-of-" + filepath.Base(dir), nil
}

func (f *fakeCompute) Systems(owner string) (names []string, err error) {
	if err := f.enter("Systems", owner); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, s := range f.systems {
		if s.document.Owner == owner && !s.isDone() {
			names = append(names, name)
		}
	}
	return names, nil
}

func (f *fakeCompute) Create(id string, document Document) (system, error) {
	if err := f.enter("Create", id); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.systems[id]; s != nil && !s.isDone() {
		return nil, f.refuse(0xB7, "there is a system %s", id)
	}
	s := &fakeContainer{fake: f, id: id, document: document, done: make(chan struct{}), processes: map[int]*fakeProcess{}}
	s.spawn("csrss.exe")
	f.systems[id] = s
	return s, nil
}

func (f *fakeCompute) Open(id string) (system, error) {
	if err := f.enter("Open", id); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.systems[id]; s != nil && !s.isDone() {
		return s, nil
	}
	return nil, newCallError("Open", 0xC037010E, errors.New("no such system"))
}

// fakeContainer is one system.
type fakeContainer struct {
	fake     *fakeCompute
	id       string
	document Document
	started  bool
	done     chan struct{}
	once     sync.Once

	mu        sync.Mutex
	processes map[int]*fakeProcess
	last      int
}

func (s *fakeContainer) isDone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *fakeContainer) Start() error {
	if err := s.fake.enter("Start", s.id); err != nil {
		return err
	}
	s.started = true
	return nil
}

func (s *fakeContainer) Terminate() error {
	if err := s.fake.enter("Terminate", s.id); err != nil {
		return err
	}
	s.end()
	return nil
}

func (s *fakeContainer) end() {
	s.once.Do(func() {
		for _, p := range s.all() {
			p.finish(codeAborted)
		}
		close(s.done)
	})
}

func (s *fakeContainer) all() []*fakeProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*fakeProcess
	for _, p := range s.processes {
		list = append(list, p)
	}
	return list
}

func (s *fakeContainer) Wait() error {
	if err := s.fake.enter("Wait", s.id); err != nil {
		return err
	}
	<-s.done
	return nil
}

func (s *fakeContainer) Close() error { return s.fake.enter("Close", s.id) }

// spawn adds a process that does nothing but live.
func (s *fakeContainer) spawn(image string) *fakeProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last += 4
	p := &fakeProcess{system: s, pid: s.last, image: image, done: make(chan struct{}), created: time.Now()}
	s.processes[p.pid] = p
	return p
}

func (s *fakeContainer) CreateProcess(document processDocument) (process, error) {
	if err := s.fake.enter("CreateProcess", s.id+" "+document.CommandLine); err != nil {
		return nil, err
	}
	if s.isDone() {
		return nil, newCallError("CreateProcess", codeNoSystem, errors.New("ended"))
	}
	if strings.HasPrefix(document.CommandLine, "no-such-program") {
		return nil, newCallError("CreateProcess", 0x80070002, os.ErrNotExist)
	}
	if strings.Contains(document.Directory, "missing") {
		return nil, newCallError("CreateProcess", 0x8007010B, errors.New("bad directory"))
	}
	p := s.spawn(strings.Fields(document.CommandLine)[0])
	p.document = document
	var stdin io.Reader
	stdin, p.stdin = io.Pipe()
	var stdout, stderr io.WriteCloser
	p.stdout, stdout = io.Pipe()
	if !document.Console {
		p.stderr, stderr = io.Pipe()
	}
	script := document.CommandLine
	if i := strings.Index(script, scriptDir+`\`); i >= 0 {
		for _, mapped := range s.document.Mapped {
			if mapped.Container == scriptDir {
				text, err := os.ReadFile(filepath.Join(mapped.Host, script[i+len(scriptDir)+1:]))
				if err != nil {
					return nil, newCallError("CreateProcess", codeFileNotFound, err)
				}
				script = string(text)
			}
		}
	}
	go p.run(script, stdin, stdout, stderr)
	return p, nil
}

func (s *fakeContainer) Kill(pid int) error {
	if err := s.fake.enter("Kill", s.id); err != nil {
		return err
	}
	s.mu.Lock()
	p := s.processes[pid]
	s.mu.Unlock()
	if p == nil {
		return newCallError("Kill", codeNotFound, errors.New("no such process"))
	}
	return p.Kill()
}

func (s *fakeContainer) Processes() (list []processInfo, err error) {
	if err := s.fake.enter("Processes", s.id); err != nil {
		return nil, err
	}
	for _, p := range s.all() {
		list = append(list, processInfo{PID: p.pid, Image: p.image, Created: p.created})
	}
	return list, nil
}

func (s *fakeContainer) Statistics() (statistics, error) {
	if s.isDone() {
		return statistics{}, newCallError("Statistics", codeNoSystem, errors.New("ended"))
	}
	return statistics{Memory: 30 << 20, CPU: time.Second}, nil
}

// fakeProcess is one process. Its script's lines: "out TEXT", "err TEXT", "cat", "live" (until it is killed), "spawn
// NAME" (a descendant that holds the streams open), "exit N".
type fakeProcess struct {
	system         *fakeContainer
	pid            int
	image          string
	created        time.Time
	document       processDocument
	stdin          io.WriteCloser
	stdout, stderr io.ReadCloser
	done           chan struct{}
	once           sync.Once
	code           int
	holders        sync.WaitGroup
}

func (p *fakeProcess) run(script string, stdin io.Reader, stdout, stderr io.WriteCloser) {
	code := 0
	for line := range strings.Lines(script) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "echo": // of the first process
			fmt.Fprintf(stdout, "%s\r\n", strings.ReplaceAll(rest, "%PATH%", `C:\Windows\system32`))
		case "out":
			fmt.Fprintln(stdout, rest)
		case "err":
			fmt.Fprintln(stderr, rest)
		case "cat":
			_, _ = io.Copy(stdout, stdin)
		case "spawn":
			child := p.system.spawn(rest)
			p.holders.Add(1)
			go func() { <-child.done; p.holders.Done() }()
		case "live":
			<-p.done
		case "exit":
			code, _ = strconv.Atoi(rest)
		}
	}
	p.finish(code)
	p.holders.Wait()
	_ = stdout.Close()
	if stderr != nil {
		_ = stderr.Close()
	}
}

func (p *fakeProcess) finish(code int) {
	p.once.Do(func() {
		p.code = code
		p.system.mu.Lock()
		delete(p.system.processes, p.pid)
		p.system.mu.Unlock()
		close(p.done)
	})
}

func (p *fakeProcess) PID() int { return p.pid }

func (p *fakeProcess) Stdio() (io.WriteCloser, io.ReadCloser, io.ReadCloser, error) {
	return p.stdin, p.stdout, p.stderr, p.system.fake.enter("Stdio", p.system.id)
}

func (p *fakeProcess) CloseStdin() error { return nil }

func (p *fakeProcess) Wait() error {
	<-p.done
	return p.system.fake.enter("WaitProcess", p.system.id)
}

func (p *fakeProcess) ExitCode() (int, error) { return p.code, nil }

func (p *fakeProcess) Kill() error {
	p.finish(1)
	return nil
}

func (p *fakeProcess) Resize(uint16, uint16) error { return nil }

func (p *fakeProcess) Close() error { return nil }

// rig is a host over a fake service, with a base and what the tests look at.
type rig struct {
	*Host
	fake *fakeCompute
	t    *testing.T
	dir  string
	base []string
}

func quickTiming() timing {
	return timing{
		call: 2 * time.Second, create: 500 * time.Millisecond, start: 500 * time.Millisecond, end: 500 * time.Millisecond,
		setup: 2 * time.Second, pause: time.Millisecond, dispose: []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond},
		drain: 50 * time.Millisecond, settling: 20 * time.Millisecond,
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{fake: newFake(), t: t, dir: dir}
	for _, name := range []string{"app", "patch", "base"} {
		layer := filepath.Join(dir, "layers", name)
		require.NoError(t, os.MkdirAll(filepath.Join(layer, "Files"), 0o700))
		r.base = append(r.base, layer)
	}
	for _, name := range []string{"patch", "base"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "layers", name, "UtilityVM"), 0o700))
	}
	r.reopen()
	return r
}

// reopen is a restart of the executor over the same state and service.
func (r *rig) reopen() {
	r.t.Helper()
	helper := filepath.Join(r.dir, "helper")
	require.NoError(r.t, os.MkdirAll(helper, 0o700))
	h, err := open(Options{
		Dir: filepath.Join(r.dir, "state"), HelperDir: helper, CPUs: 8, Host: Version{10, 0, 20348, 2700}, MaxStuck: 2,
		Logger: newTestLog(r.t),
	}, r.fake, quickTiming())
	require.NoError(r.t, err)
	r.Host = h
	r.t.Cleanup(func() { require.NoError(r.t, h.Close()) })
}

var lastID int

func (r *rig) spec() isolation.Spec {
	r.t.Helper()
	lastID++
	id := fmt.Sprintf("al-%d", lastID)
	scratch := filepath.Join(r.dir, "scratch", id)
	require.NoError(r.t, os.MkdirAll(scratch, 0o700))
	return isolation.Spec{
		ID: id, Hostname: "sandbox", ScratchDir: scratch,
		Image: isolation.Root{Layers: r.base, Config: isolation.ImageConfig{Env: []string{"GREETING=image"}, OSVersion: "10.0.20348.2700"}},
	}
}

// create makes a sandbox that is destroyed at the end, when nothing may be left of it.
func (r *rig) create(level isolation.Level, spec isolation.Spec) *sandbox {
	r.t.Helper()
	made, err := r.Runtime(level).Create(r.t.Context(), spec)
	require.NoError(r.t, err)
	r.t.Cleanup(func() {
		require.NoError(r.t, made.Destroy(r.t.Context()))
		r.requireNothing(spec)
	})
	return made.(*sandbox)
}

// requireNothing is the ledger: no system, no mounted scratch, no file of the sandbox, and no wrong use of the service.
func (r *rig) requireNothing(spec isolation.Spec) {
	r.t.Helper()
	r.fake.mu.Lock()
	defer r.fake.mu.Unlock()
	for name, s := range r.fake.systems {
		require.False(r.t, idOf(name) == spec.ID && !s.isDone(), "the system %s lives", name)
	}
	for dir := range r.fake.layers {
		require.NotEqual(r.t, spec.ID, idOf(filepath.Base(dir)), "%s is there", dir)
	}
	entries, err := os.ReadDir(spec.ScratchDir)
	require.NoError(r.t, err)
	require.Empty(r.t, entries)
	require.NoFileExists(r.t, r.recordPath(spec.ID))
	require.Empty(r.t, r.fake.wrong)
}

// requireEmptyTrash waits for what goes on in the background.
func (r *rig) requireEmptyTrash() {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		entries, err := os.ReadDir(r.trashDir())
		return err == nil && len(entries) == 0
	}, 10*time.Second, time.Millisecond)
}
