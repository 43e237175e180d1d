package hcs

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

const sigkill = 9

// stage is one process that was started, with its output on the way.
type stage struct {
	sandbox     *sandbox
	process     process
	interactive bool
	script      string // on the host; empty when there is none
	// before are the processes that the sandbox had when this one started.
	before map[int]processInfo

	stdin  io.WriteCloser
	copies []*copying
	killed atomic.Int32 // the signal that ended it

	once sync.Once
	exit isolation.Exit
	err  error
}

var _ isolation.Process = (*stage)(nil)

// Start starts a process. Its script is there before, and goes with it.
func (s *sandbox) Start(ctx context.Context, spec isolation.ProcessSpec) (isolation.Process, error) {
	if s.ended() {
		return nil, s.gone(nil)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p := &stage{sandbox: s, interactive: spec.Interactive}
	command := ""
	if spec.Script != nil {
		sh, err := findShell(spec.Shell)
		if err != nil {
			return nil, err
		}
		var there string
		if p.script, there, err = s.writeScript(spec.Script, sh.extension); err != nil {
			if s.ended() {
				return nil, s.gone(err)
			}
			return nil, fault.Systemf("writing the stage's script: %w", err)
		}
		command = sh.command + there
	}
	p.before = s.processes()
	if err := p.launch(s.processOf(spec, command), spec); err != nil {
		p.removeScript()
		return nil, err
	}
	s.mu.Lock()
	s.active[p] = true
	s.mu.Unlock()
	return p, nil
}

// launch starts the process in its directory, or in the job's if there is no such directory, and connects its streams.
func (p *stage) launch(document processDocument, spec isolation.ProcessSpec) error {
	h := p.sandbox.runtime.host
	start := func(dir string) (err error) {
		document.Directory = dir
		p.process, err = bounded(h, h.timing.call, "starting a process", func() (process, error) {
			return p.sandbox.system.CreateProcess(document)
		}, func(late process) { _ = late.Kill(); _ = late.Close() })
		return err
	}
	dir := strings.ReplaceAll(spec.Dir, "/", `\`)
	if dir == "" {
		dir = buildsDir
	}
	err := start(dir)
	if hasCode(err, codeBadDirectory) && dir != buildsDir {
		err = start(buildsDir)
	}
	program, _, _ := strings.Cut(document.CommandLine, " ")
	switch {
	case hasCode(err, codeFileNotFound, codePathNotFound):
		return fault.WithRemedy(fault.Authorf("the image has no %s: %w", program, err), "use an image that has it, or another shell")
	case err != nil:
		return p.sandbox.explain(err, "starting "+program)
	}
	stdin, stdout, stderr, err := p.process.Stdio()
	if err != nil {
		h.attempt("ending a process", p.process.Kill)
		h.attempt("closing a process", p.process.Close)
		return p.sandbox.explain(err, "connecting to "+program)
	}
	p.stdin = stdin
	p.copy(spec.Stdout, stdout)
	p.copy(spec.Stderr, stderr)
	go p.feed(spec.Stdin)
	return nil
}

// feed gives the process its input and then tells it that there is no more.
func (p *stage) feed(input io.Reader) {
	if p.stdin == nil {
		return
	}
	if input != nil {
		_, _ = io.Copy(p.stdin, input) // a process that does not read it is free to do so
	}
	_ = p.stdin.Close()
	p.sandbox.runtime.host.attempt("closing a process's input", p.process.CloseStdin)
}

// copying is the way of one stream.
type copying struct {
	from io.ReadCloser
	done chan struct{}
	// since is when it began to wait for the process, in nanoseconds; 0 while it waits for the consumer.
	since atomic.Int64
}

func (p *stage) copy(to io.Writer, from io.ReadCloser) {
	if from == nil {
		return
	}
	c := &copying{from: from, done: make(chan struct{})}
	p.copies = append(p.copies, c)
	go c.run(to)
}

// run copies until the end of the stream. A consumer that fails gets nothing more, and the process does not notice.
func (c *copying) run(to io.Writer) {
	defer close(c.done)
	defer func() { _ = c.from.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		c.since.Store(time.Now().UnixNano())
		n, err := c.from.Read(buffer)
		c.since.Store(0)
		if n > 0 && to != nil {
			if _, failed := to.Write(buffer[:n]); failed != nil {
				to = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// drain returns when all output was written. Once the process and all that is known of its descendants have ended, it
// does not wait for others that hold a stream open without writing to it.
func (p *stage) drain(limit time.Duration) {
	for _, c := range p.copies {
		for waiting := true; waiting; {
			select {
			case <-c.done:
				waiting = false
			case <-time.After(limit/20 + time.Millisecond):
				if since := c.since.Load(); since != 0 && time.Since(time.Unix(0, since)) > limit {
					_ = c.from.Close()
					<-c.done
				}
			}
		}
	}
}

// Wait returns when the process has ended, its descendants were ended and its output was written.
func (p *stage) Wait() (isolation.Exit, error) {
	p.once.Do(func() { p.exit, p.err = p.await() })
	return p.exit, p.err
}

func (p *stage) await() (isolation.Exit, error) {
	s, h := p.sandbox, p.sandbox.runtime.host
	waitErr := p.process.Wait()
	if !p.interactive && !s.ended() {
		p.endDescendants()
	}
	p.drain(h.timing.drain)
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	s.mu.Lock()
	delete(s.active, p)
	s.mu.Unlock()
	p.removeScript()
	defer h.attempt("closing a process", p.process.Close)

	code, err := p.process.ExitCode()
	if err = errors.Join(waitErr, err); err != nil {
		return isolation.Exit{}, s.explain(err, "waiting for a process")
	}
	signal := int(p.killed.Load())
	if code == codeAborted && signal == 0 {
		// So ends who is ended with the container, whose own end may be told a little later.
		select {
		case <-s.done:
		case <-time.After(h.timing.settling):
		}
	}
	switch {
	case s.ended():
		return isolation.Exit{}, s.gone(nil)
	case signal != 0:
		return isolation.Exit{Code: 128 + signal, Signal: signal}, nil
	default:
		return isolation.Exit{Code: int(int32(code))}, nil
	}
}

func (p *stage) removeScript() {
	if p.script == "" {
		return
	}
	if err := os.Remove(p.script); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.sandbox.runtime.host.log.Warn().Err(err).Str("sandbox", p.sandbox.id).Msg("a stage's script stays until the sandbox goes")
	}
}

// Signal ends the process and its descendants, whatever the signal: Windows has nothing gentler for a process
// without a console.
func (p *stage) Signal(_ context.Context, signal int) error {
	if signal <= 0 || signal > 64 {
		return fault.Systemf("%d is no signal", signal)
	}
	p.killed.CompareAndSwap(0, int32(signal))
	return p.end()
}

func (p *stage) end() error {
	s, h := p.sandbox, p.sandbox.runtime.host
	if !p.alone() {
		// Nothing outside tells to which stage the other processes belong.
		p.endTree()
	}
	err := h.do("ending a process", p.process.Kill)
	p.endDescendants()
	if err != nil && !s.ended() && !hasCode(err, codeNotFound) {
		return fault.Systemf("sandbox %s: ending a process: %w", s.id, err)
	}
	return nil
}

// alone says whether no other process of ours runs in the sandbox.
func (p *stage) alone() bool {
	p.sandbox.mu.Lock()
	defer p.sandbox.mu.Unlock()
	return len(p.sandbox.active) == 0 || len(p.sandbox.active) == 1 && p.sandbox.active[p]
}

// sparedImages are programs that Windows itself starts when it needs them. A stage that gives its own such a name
// keeps it alive until the job's end; that is no boundary that anything relies on.
var sparedImages = []string{
	"csrss.exe", "dllhost.exe", "fontdrvhost.exe", "lsass.exe", "services.exe", "smss.exe", "svchost.exe", "taskhostw.exe",
	"tiworker.exe", "trustedinstaller.exe", "wininit.exe", "winlogon.exe", "wmiprvse.exe",
}

// sweepRounds bounds the search for processes that start others while they are being ended.
const sweepRounds = 5

// endDescendants ends what came into the sandbox since the process started: its descendants, as the service lists
// processes without their parents. While another process of ours runs, nothing is ended here.
func (p *stage) endDescendants() {
	h := p.sandbox.runtime.host
	if p.before == nil {
		return // what was there before is not known
	}
	for range sweepRounds {
		if p.sandbox.ended() || !p.alone() {
			return
		}
		found := false
		for pid, info := range p.sandbox.processes() {
			if before, known := p.before[pid]; known && before.Created.Equal(info.Created) || pid == p.process.PID() ||
				slices.Contains(sparedImages, strings.ToLower(info.Image)) {
				continue
			}
			found = true
			h.attempt("ending a process of a stage", func() error { return p.sandbox.system.Kill(pid) })
		}
		if !found {
			return
		}
	}
}

// processes lists the sandbox's processes; nil when that cannot be had, and then nothing is ended by it.
func (s *sandbox) processes() map[int]processInfo {
	h := s.runtime.host
	list, err := bounded(h, h.timing.call, "listing processes", s.system.Processes, nil)
	if err != nil {
		h.log.Debug().Err(err).Str("sandbox", s.id).Msg("listing processes")
		return nil
	}
	all := make(map[int]processInfo, len(list))
	for _, info := range list {
		all[info.PID] = info
	}
	return all
}

// endTree asks Windows' own tool, in the sandbox, to end the process with its descendants: it knows their parents.
func (p *stage) endTree() {
	s, h := p.sandbox, p.sandbox.runtime.host
	tool, err := bounded(h, h.timing.call, "starting taskkill", func() (process, error) {
		return s.system.CreateProcess(processDocument{
			CommandLine: "taskkill.exe /F /T /PID " + strconv.Itoa(p.process.PID()), Directory: `C:\`, User: administrator,
		})
	}, func(late process) { _ = late.Close() })
	if err != nil {
		h.log.Debug().Err(err).Str("sandbox", s.id).Msg("taskkill")
		return
	}
	stdin, stdout, stderr, stdioErr := tool.Stdio()
	_, _ = bounded(h, h.timing.drain, "taskkill", func() (struct{}, error) { return struct{}{}, tool.Wait() }, nil)
	if stdioErr == nil { // a line of output fits into the pipes
		for _, pipe := range []io.Closer{stdin, stdout, stderr} {
			if pipe != nil {
				_ = pipe.Close()
			}
		}
	}
	h.attempt("closing a process", tool.Close)
}

// Resize sets the size of the terminal.
func (p *stage) Resize(_ context.Context, rows, columns uint16) error {
	if err := p.sandbox.runtime.host.do("resizing a terminal", func() error { return p.process.Resize(rows, columns) }); err != nil {
		return fault.Systemf("sandbox %s: resizing the terminal: %w", p.sandbox.id, err)
	}
	return nil
}
