package hcssim

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// guestTimeout bounds the start of a guest: Wine takes a second, more on a busy machine.
const guestTimeout = time.Minute

// guest is a running guest/hcsguest.c: it starts processes in its prefix.
type guest struct {
	conn    net.Conn
	process *os.Process
	exited  chan error        // of the process, once
	env     map[string]string // its own environment
	names   map[string]string // its variables' names, by the same in upper case

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*started
	ended   bool
}

// started is a process of a guest.
type started struct {
	reply  chan [2]uint64 // error, pid
	exited func(code uint32)
	job    uint64
}

// startGuest starts the guest of a prefix, and with it Wine.
func (p *prefix) startGuest(b *broker) (*guest, error) {
	token := make([]byte, 8)
	rand.Read(token)
	came := b.expect(hex.EncodeToString(token))
	command := exec.Command(loader, `C:\windows\system32\hcsguest.exe`, strconv.Itoa(b.port()), b.secret, hex.EncodeToString(token))
	command.Env, command.Dir = environment(p.dir), "/"
	// A file, not a pipe: Wine's services inherit it, and outlive the guest.
	output, err := os.Create(filepath.Join(p.dir, "guest.log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	g := &guest{process: command.Process, exited: exited, waiting: map[uint64]*started{}, env: map[string]string{}, names: map[string]string{}}
	select {
	case conn := <-came:
		g.conn = conn
	case err := <-exited:
		text, _ := os.ReadFile(output.Name())
		return nil, fmt.Errorf("the guest in %s ended: %w\n%s", p.dir, err, text)
	case <-time.After(guestTimeout):
		return nil, fmt.Errorf("the guest in %s does not answer", p.dir)
	}
	hello, err := service.ReadMessage(g.conn)
	if err != nil || len(hello) < 2 {
		return nil, fmt.Errorf("the guest in %s says nothing: %w", p.dir, err)
	}
	for _, pair := range strings.Split(service.DecodeString(hello[1]), "\x00") {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" && inherited(name) {
			g.env[name], g.names[strings.ToUpper(name)] = value, name
		}
	}
	go g.read()
	return g, nil
}

// inherited says whether a container's processes get a variable of the guest's: Windows's own, nothing of this host.
func inherited(name string) bool {
	return slices.Contains([]string{
		"ALLUSERSPROFILE", "APPDATA", "COMMONPROGRAMFILES", "COMSPEC", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA",
		"NUMBER_OF_PROCESSORS", "OS", "PATH", "PATHEXT", "PROCESSOR_ARCHITECTURE", "PROCESSOR_IDENTIFIER",
		"PROCESSOR_LEVEL", "PROCESSOR_REVISION", "PROGRAMDATA", "PROGRAMFILES", "PUBLIC", "SYSTEMDRIVE", "SYSTEMROOT", "TEMP",
		"TMP", "USERNAME", "USERPROFILE", "WINDIR",
	}, strings.ToUpper(name))
}

func (g *guest) read() {
	for {
		fields, err := service.ReadMessage(g.conn)
		if err != nil || len(fields) < 4 {
			g.lost()
			return
		}
		id, a, b := service.DecodeNumber(fields[1]), service.DecodeNumber(fields[2]), service.DecodeNumber(fields[3])
		g.mu.Lock()
		s := g.waiting[id]
		g.mu.Unlock()
		switch {
		case s == nil:
		case string(fields[0]) == "started":
			s.reply <- [2]uint64{a, b}
		default:
			g.forget(id)
			go s.exited(uint32(a))
		}
	}
}

func (g *guest) forget(id uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waiting, id)
}

// lost says of every process that it has ended: its guest has.
func (g *guest) lost() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	for id, s := range g.waiting {
		close(s.reply)
		go s.exited(1067)
		delete(g.waiting, id)
	}
}

// run starts a process in a job.
func (g *guest) run(job uint64, p service.Process) (uint64, func(uint32), error) {
	g.mu.Lock()
	if g.ended {
		g.mu.Unlock()
		return 0, nil, errors.New("the guest has ended")
	}
	g.last++
	id, s := g.last, &started{reply: make(chan [2]uint64, 1), exited: p.Exited, job: job}
	g.waiting[id] = s
	directory := p.Directory
	if directory == "" {
		directory = `C:\`
	}
	err := service.WriteMessage(g.conn, []byte("run"), id, job, p.CommandLine, directory, g.environment(p.Env), p.In, p.Out, p.Err)
	g.mu.Unlock()
	if err != nil {
		g.forget(id)
		return 0, nil, err
	}
	reply, ok := <-s.reply
	if !ok {
		return 0, nil, errors.New("the guest has ended")
	}
	if reply[0] != 0 {
		g.forget(id)
		return 0, nil, service.GuestError(reply[0])
	}
	return reply[1], func(code uint32) { g.send("kill", id, uint64(code)) }, nil
}

// environment returns a block of the guest's variables and others. Names are the same in whatever case.
func (g *guest) environment(add map[string]string) string {
	env := maps.Clone(g.env)
	for name, value := range add {
		if own, ok := g.names[strings.ToUpper(name)]; ok {
			delete(env, own)
		}
		env[name] = value
	}
	var block strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		block.WriteString(name + "=" + env[name] + "\x00")
	}
	return block.String()
}

func (g *guest) send(what string, a, b uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	service.WriteMessage(g.conn, []byte(what), a, b)
}

// endJob ends all processes of a job, and returns when those that the guest knows have ended.
func (g *guest) endJob(job uint64) {
	g.send("end", job, 1067)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		g.mu.Lock()
		left := 0
		for _, s := range g.waiting {
			if s.job == job {
				left++
			}
		}
		g.mu.Unlock()
		if left == 0 {
			return
		}
	}
}

// killClient ends a process of the same prefix that is none of the guest's.
func (g *guest) killClient(pid uint64) { g.send("kill-pid", pid, 0) }

// close ends the guest.
func (g *guest) close() {
	g.conn.Close()
	select {
	case <-g.exited:
	case <-time.After(5 * time.Second):
		g.process.Kill()
	}
}
