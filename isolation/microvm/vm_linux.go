package microvm

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// Every machine's QEMU has a user of its own, out of a range that neither distributions, systemd nor user namespaces
// use (https://systemd.io/UIDS-GIDS/), so that one that was taken over can do nothing to the others.
const (
	firstUser = 2_000_000_000
	users     = 100_000_000
)

// userOf returns the user id of a machine.
func userOf(id string) uint32 {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(id)) // never fails
	return firstUser + hash.Sum32()%users
}

// keptOutput is how much of the console's and QEMU's own messages is kept, in bytes: the end of it.
const keptOutput = 4 << 10

// vm is one running QEMU.
type vm struct {
	command *exec.Cmd
	agent   net.Conn
	monitor *qmp
	console *tail
	errors  *tail // QEMU's stderr
	exited  chan struct{}

	mutex   sync.Mutex
	events  []qmpMessage
	onEvent func(qmpMessage) // may be nil
}

// startVM starts a machine in the jail. The files are closed here, whatever happens.
func startVM(j *jail, id string, m machine, files *descriptors) (started *vm, err error) {
	defer files.close()
	undo := cleanup.New(context.Background())
	defer undo.Run(&err)
	v := &vm{console: &tail{}, errors: &tail{}, exited: make(chan struct{})}
	agentConn, agentEnd, err := agent.SocketPair()
	if err != nil {
		return nil, err
	}
	undo.Push(agentConn.Close)
	m.agent = files.add(agentEnd)
	monitorConn, monitorEnd, err := agent.SocketPair()
	if err != nil {
		return nil, err
	}
	undo.Push(monitorConn.Close)
	m.monitor = files.add(monitorEnd)
	consoleConn, consoleEnd, err := agent.SocketPair()
	if err != nil {
		return nil, err
	}
	undo.Push(consoleConn.Close)
	m.console = files.add(consoleEnd)

	v.command, err = j.start(userOf(id), m.arguments(), files.files, v.errors)
	if err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	undo.Release()
	files.close() // or their ends would outlive it
	v.agent = agentConn
	v.monitor = newQMP(monitorConn, v.noticed)
	go v.console.readFrom(consoleConn)
	go func() {
		_ = v.command.Wait() // its state says all
		close(v.exited)
	}()
	if err := v.limit(m.writable); err != nil { // before the guest is anybody's
		v.kill()
		return nil, err
	}
	return v, nil
}

// openFiles is how many files a QEMU may have open: a few dozen are usual.
const openFiles = 1024

// limit sets QEMU's resource limits. Writable is the size of the scratch disk in bytes, the largest file that it may write; 0
// while it has no job's disk, because not every host's root may raise a limit again. A write behind that, or the growing of a
// file, ends QEMU by SIGXFSZ. No guest can cause that: the disk that it sees ends before. Pipes and devices have no size.
func (v *vm) limit(writable int64) error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: openFiles}
	if writable > 0 {
		limits[unix.RLIMIT_FSIZE] = uint64(writable)
	}
	for resource, most := range limits {
		err := unix.Prlimit(v.command.Process.Pid, resource, &unix.Rlimit{Cur: most, Max: most}, nil)
		if err != nil && v.runs() { // what has ended is explained by the next call that speaks to it
			return fault.Systemf("limiting QEMU: %w", err)
		}
	}
	return nil
}

// run runs steps that need the machine, one after the other. When one fails it says why the machine ended, if that is why,
// and ends it.
func (v *vm) run(ctx context.Context, steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			err = v.explain(ctx, err)
			v.kill()
			return err
		}
	}
	return nil
}

// kill ends the process and waits for it, as its parent, which no other process's id can be mistaken by.
func (v *vm) kill() {
	_ = v.command.Process.Kill() // it fails only for a process that has ended
	<-v.exited
	_ = v.agent.Close()
	<-v.monitor.done
}

// noticed remembers an event and passes it on.
func (v *vm) noticed(message qmpMessage) {
	v.mutex.Lock()
	if len(v.events) < keptEvents {
		v.events = append(v.events, message)
	}
	onEvent := v.onEvent
	v.mutex.Unlock()
	if onEvent != nil {
		onEvent(message)
	}
}

// notify lets somebody hear of events from now on.
func (v *vm) notify(onEvent func(qmpMessage)) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	v.onEvent = onEvent
}

// runs reports whether the process has not ended.
func (v *vm) runs() bool {
	select {
	case <-v.exited:
		return false
	default:
		return true
	}
}

// event returns the first event of a name that was seen.
func (v *vm) event(name string) (qmpMessage, bool) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	for _, e := range v.events {
		if e.Event == name {
			return e, true
		}
	}
	return qmpMessage{}, false
}

// awaitEnd waits for the process to end by itself.
func (v *vm) awaitEnd(ctx context.Context, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-v.exited:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// The last message of a guest's kernel, of an agent that fails as its first process, and what the kernel says when it has run out of memory for good.
var (
	panicMessage  = regexp.MustCompile(`Kernel panic - not syncing: ([^\n]*)`)
	agentMessage  = regexp.MustCompile(`airlock-agent: ([^\n]*)`)
	panicOfMemory = regexp.MustCompile(`(?i)out of memory|deadlocked on memory`)
)

// whyEnded says why a machine that was not asked to end has ended, from what QEMU and the console said; nil if it
// still runs.
func (v *vm) whyEnded() error {
	if v.runs() {
		return nil
	}
	<-v.monitor.done // all events were seen
	<-v.console.closed()
	status, _ := v.command.ProcessState.Sys().(syscall.WaitStatus)
	if why := panicReason(v.console.text()); why != nil {
		return why
	}
	if e, ok := v.event("BLOCK_IO_ERROR"); ok && e.Data.NoSpace {
		return errHostFull
	}
	if e, ok := v.event("SHUTDOWN"); ok && strings.HasPrefix(e.Data.Reason, "guest-") {
		return fault.Systemf("the guest ended its machine (%s)", plain(e.Data.Reason))
	}
	if status.Signaled() {
		return fault.Systemf("QEMU was ended by signal %d (%s)", status.Signal(), status.Signal())
	}
	return fault.Systemf("QEMU ended with status %d: %s", status.ExitStatus(), plain(v.errors.text()))
}

// panicReason says why a guest's kernel panicked, from its console; nil if it did not.
func panicReason(console string) error {
	match := panicMessage.FindStringSubmatch(console)
	if match == nil {
		return nil
	}
	if panicOfMemory.MatchString(match[1]) {
		return fault.WithRemedy(fault.Authorf("the machine ran out of memory: %s", plain(match[1])), "use less memory, or ask for a higher limit")
	}
	if said := agentMessage.FindStringSubmatch(console); said != nil {
		return fault.Systemf("the guest's agent failed: %s", plain(said[1]))
	}
	return fault.Systemf("the guest's kernel panicked: %s", plain(match[1]))
}

// tail keeps the end of what is written to it.
type tail struct {
	mutex  sync.Mutex
	buffer []byte
	ended  chan struct{}
}

func (t *tail) Write(p []byte) (int, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.buffer = append(t.buffer, p[max(0, len(p)-keptOutput):]...)
	t.buffer = t.buffer[max(0, len(t.buffer)-keptOutput):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return string(t.buffer)
}

// closed is closed when readFrom has returned.
func (t *tail) closed() chan struct{} {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.ended == nil {
		t.ended = make(chan struct{})
	}
	return t.ended
}

// readFrom reads until the connection ends.
func (t *tail) readFrom(conn net.Conn) {
	defer close(t.closed())
	defer func() { _ = conn.Close() }()
	buffer := make([]byte, keptOutput)
	for {
		n, err := conn.Read(buffer)
		_, _ = t.Write(buffer[:n]) // never fails
		if err != nil {
			return
		}
	}
}

// plain makes a text of QEMU or a guest fit for logs: one line, no control characters.
func plain(text string) string {
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, " "), func(r rune) bool { return !unicode.IsPrint(r) }), " ")
}
