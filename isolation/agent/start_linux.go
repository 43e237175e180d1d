package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// plan is a start request after everything in it was looked up in its root.
type plan struct {
	root   *root
	user   account
	argv   []string
	file   string // what to execute, a path in the root
	env    []string
	dirs   []string // those that exist, the first that the user may enter is taken
	script string   // name of the script file, or empty
}

// serveStart is the life of one process, from the request to the exit frame.
func (s *server) serveStart(stream *yamux.Stream, req startRequest) {
	script := &scriptReader{frames: stream, left: max(0, req.Script), buf: make([]byte, frame.MaxPayload)}
	p, err := s.plan(script, req)
	if p.root != nil {
		defer s.leave(p.root)
	}
	if err != nil {
		_, _ = io.Copy(io.Discard, script) // the executor reads the reply only after it has sent all
		_ = frame.WriteJSON(stream, frameReply, reply{Error: toWire(err)})
		return
	}
	if p.script != "" {
		defer p.root.removeScript(p.script)
	}
	c, err := s.fork(p, req)
	if err != nil {
		_ = frame.WriteJSON(stream, frameReply, reply{Error: toWire(err)})
		return
	}
	_ = frame.WriteJSON(stream, frameReply, reply{}) // a lost stream is noticed by receive, which kills
	go s.receive(stream, c)
	exit, err := s.finish(stream, c)
	if p.script != "" {
		p.root.removeScript(p.script) // before the executor learns of the end
	}
	if err != nil {
		_ = frame.WriteJSON(stream, frameReply, reply{Error: toWire(err)})
		return
	}
	_ = frame.Write(stream, frameExit, exit[:])
}

// plan looks up what the request names, and writes its script. When the plan has a root, the root is in use, whatever
// the error: leave follows.
func (s *server) plan(script *scriptReader, req startRequest) (p plan, err error) {
	rs, err := s.enter(&p, req)
	if err != nil {
		return p, err
	}
	p.user, p.env = rs.user, req.Env
	if req.User != "" {
		if p.user, err = rs.image.account(req.User); err != nil {
			return p, err
		}
	}
	if !hasHome(p.env) {
		p.env = append(p.env, "HOME="+p.user.home)
	}
	if p.dirs, err = p.root.existing(req.Dirs); err != nil {
		return p, err
	}
	if len(req.Args) > 0 {
		p.argv = req.Args
		p.file, err = p.root.command(req.Args[0], p.env)
		return p, err
	}
	if p.file, err = rs.shellOf(p.root, p.env); err != nil {
		return p, err
	}
	p.argv = []string{p.file}
	if req.Script >= 0 {
		if p.script, err = p.root.writeScript(script, p.user); err != nil {
			return p, err
		}
		p.argv = append(p.argv, path.Join(isolation.ScriptDir, p.script))
	}
	return p, nil
}

// enter puts the root that a process is to run in into the plan, made ready for it, and returns all roots.
func (s *server) enter(p *plan, req startRequest) (*roots, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roots == nil || req.Helper && s.roots.helper == nil {
		return nil, fmt.Errorf("%w: a start before the setup", frame.ErrProtocol)
	}
	p.root = s.roots.image
	if req.Helper {
		p.root = s.roots.helper
	}
	s.using[p.root]++
	return s.roots, p.root.renew(s.roots.user, s.using[p.root] == 1)
}

// leave is called when a process that was to run in the root has ended, or was not started.
func (s *server) leave(r *root) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.using[r]--
}

// shellOf returns a root's shell. That the image had one is known since the setup.
func (rs *roots) shellOf(r *root, env []string) (string, error) {
	file, err := r.shell(pathOf(env))
	if err == nil || r.helper {
		return file, r.blame(err)
	}
	if rs.shell == "" {
		return "", err
	}
	return "", fault.WithRemedy(
		fault.Authorf("the image's shell %s is gone: this job has removed it, or what it needs to run", rs.shell),
		"leave the image's shell in place: the stages that follow need it")
}

func hasHome(env []string) bool {
	for _, pair := range env {
		if strings.HasPrefix(pair, "HOME=") {
			return true
		}
	}
	return false
}

// existing returns those of the directories that exist.
func (r *root) existing(dirs []string) ([]string, error) {
	var found []string
	for _, dir := range dirs {
		if dir = path.Join("/", dir); r.isDir(dir) {
			found = append(found, dir)
		}
	}
	if len(found) == 0 {
		return nil, fault.Authorf("no working directory: none of %s exists", strings.Join(dirs, ", "))
	}
	return found, nil
}

// fork starts the planned process and enters it into the tables, in one step for whoever holds the lock.
func (s *server) fork(p plan, req startRequest) (*child, error) {
	streams, err := s.openStreams(req, p.user)
	if err != nil {
		return nil, err
	}
	defer streams.closeChildEnds()
	c := &child{
		id: req.ID, helper: req.Helper, interactive: req.Interactive,
		status: make(chan syscall.WaitStatus, 1), ended: make(chan struct{}), streams: streams,
	}
	attr := &syscall.ProcAttr{
		Env: p.env, Files: streams.childEnds(),
		Sys: &syscall.SysProcAttr{
			Chroot: p.root.path,
			Credential: &syscall.Credential{
				Uid: uint32(p.user.uid), Gid: uint32(p.user.gid), Groups: p.user.groups,
			},
			Setsid: true, Setctty: req.TTY, Ctty: 0,
		},
	}
	if p.user.uid != 0 { // root has all that the sandbox has
		attr.Sys.AmbientCaps = s.mayPassOn(layout.UserCapabilities)
		if req.Runners {
			attr.Sys.AmbientCaps = s.mayPassOn(layout.RunnersCapabilities)
		}
	}
	if s.usage != nil {
		c.oomKills = s.usage.oomKills()
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if _, used := s.byID[req.ID]; used {
		streams.closeOwnEnds()
		return nil, fmt.Errorf("%w: process id %d is in use", frame.ErrProtocol, req.ID)
	}
	s.oom.raise() // the child inherits it
	for _, attr.Dir = range p.dirs {
		c.pid, err = syscall.ForkExec(p.file, p.argv, attr)
		if !errors.Is(err, unix.EACCES) {
			break // else the user may not enter the directory, or execute the file
		}
	}
	s.oom.restore()
	if err != nil {
		streams.closeOwnEnds()
		return nil, startError(p, attr.Dir, err)
	}
	s.byPID[c.pid], s.byID[c.id] = c, c
	return c, nil
}

// startError classifies what fork, chdir and exec return; it cannot tell which of them it was.
func startError(p plan, dir string, err error) error {
	for _, full := range []error{unix.EAGAIN, unix.ENOMEM} {
		if errors.Is(err, full) {
			return fault.WithRemedy(fault.Authorf("starting %q: %w", p.argv[0], err),
				"the sandbox has reached its limit of processes, or of memory: end what runs, or remove what fills /dev/shm and /run")
		}
	}
	for _, big := range []error{unix.E2BIG, unix.ENAMETOOLONG} {
		if errors.Is(err, big) {
			return fault.WithRemedy(fault.Authorf("starting %q: %w", p.argv[0], err), "shorten its arguments and the job's variables")
		}
	}
	for _, files := range []error{ // EIO is a loader that is too short
		unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ENOTDIR, unix.ELOOP, unix.EISDIR, unix.ETXTBSY, unix.EPERM, unix.ELIBBAD,
		unix.EINVAL, unix.EIO,
	} {
		if errors.Is(err, files) {
			return p.root.blame(fault.WithRemedy(
				fault.Authorf("starting %q as user %d in %s: %w", p.argv[0], p.user.uid, dir, err),
				"check that the file exists, is executable and made for this machine, and that the user may enter the directory"))
		}
	}
	return fmt.Errorf("starting %q as user %d in %s: %w", p.argv[0], p.user.uid, dir, err)
}

// oomScore makes the kernel's OOM killer prefer the job's processes to the agent. A child inherits the score at
// its fork, so the agent takes the higher one for just that moment; it may always return to what it had.
type oomScore struct {
	file     *os.File // nil when the kernel does not let us
	own, job string
}

// jobOOMScore counts like half of the memory limit: more than any small agent can weigh (proc_pid_oom_score_adj(5)).
const jobOOMScore = "500"

func openOOMScore() oomScore {
	const path = "/proc/self/oom_score_adj"
	own, err := os.ReadFile(path)
	if err != nil {
		return oomScore{}
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return oomScore{}
	}
	score := oomScore{file: file, own: strings.TrimSpace(string(own)), job: jobOOMScore}
	if _, err := file.WriteAt([]byte("-1000"), 0); err == nil { // needs CAP_SYS_RESOURCE
		score.own = "-1000"
	}
	return score
}

func (o oomScore) raise()   { o.set(o.job) }
func (o oomScore) restore() { o.set(o.own) }

// set does its best: a sandbox without it works, too.
func (o oomScore) set(score string) {
	if o.file != nil {
		_, _ = o.file.WriteAt([]byte(score), 0)
	}
}
