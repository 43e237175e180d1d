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

	"github.com/airlock-ci/airlock/executor/api/fault"
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
	dir    string
	script string // name of the script file, or empty
}

// serveStart is the life of one process, from the request to the exit frame.
func (s *server) serveStart(stream *yamux.Stream, req startRequest) {
	script := &scriptReader{frames: stream, left: max(0, req.Script), buf: make([]byte, maxPayload)}
	p, err := s.plan(script, req)
	if err != nil {
		_, _ = io.Copy(io.Discard, script) // the executor reads the reply only after it has sent all
		_ = writeJSON(stream, frameReply, reply{Error: toWire(err)})
		return
	}
	if p.script != "" {
		defer p.root.removeScript(p.script)
	}
	c, err := s.fork(p, req)
	if err != nil {
		_ = writeJSON(stream, frameReply, reply{Error: toWire(err)})
		return
	}
	_ = writeJSON(stream, frameReply, reply{}) // a lost stream is noticed by receive, which kills
	go s.receive(stream, c)
	exit, err := s.finish(stream, c)
	if p.script != "" {
		p.root.removeScript(p.script) // before the executor learns of the end
	}
	if err != nil {
		_ = writeJSON(stream, frameReply, reply{Error: toWire(err)})
		return
	}
	_ = writeFrame(stream, frameExit, exit[:])
}

// plan looks up what the request names, and writes its script.
func (s *server) plan(script io.Reader, req startRequest) (plan, error) {
	rs, err := s.ready(req)
	if err != nil {
		return plan{}, err
	}
	p := plan{root: rs.image, user: rs.user, env: req.Env}
	if req.User != "" {
		if p.user, err = rs.image.account(req.User); err != nil {
			return plan{}, err
		}
	}
	if req.Helper {
		p.root = rs.helper
	}
	if !hasHome(p.env) {
		p.env = append(p.env, "HOME="+p.user.home)
	}
	if p.dir, err = p.root.firstDir(req.Dirs); err != nil {
		return plan{}, err
	}
	if len(req.Args) > 0 {
		p.argv = req.Args
		p.file, err = p.root.command(req.Args[0], p.env)
		return p, err
	}
	if p.file, err = p.root.shell(p.env); err != nil {
		return plan{}, err
	}
	p.argv = []string{p.file}
	if req.Script >= 0 {
		if p.script, err = p.root.writeScript(script, p.user); err != nil {
			return plan{}, err
		}
		p.argv = append(p.argv, path.Join(isolation.ScriptDir, p.script))
	}
	return p, nil
}

// ready returns the roots after the setup, with a clean home for helper stages.
func (s *server) ready(req startRequest) (*roots, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roots == nil || req.Helper && s.roots.helper == nil {
		return nil, fmt.Errorf("%w: a start before the setup", errProtocol)
	}
	if !req.Helper {
		return s.roots, nil
	}
	for _, c := range s.byID {
		if c.helper {
			return s.roots, nil // it lives there
		}
	}
	return s.roots, s.roots.helper.emptyHome(s.roots.user)
}

func hasHome(env []string) bool {
	for _, pair := range env {
		if strings.HasPrefix(pair, "HOME=") {
			return true
		}
	}
	return false
}

func (r *root) firstDir(dirs []string) (string, error) {
	for _, dir := range dirs {
		if r.isDir(dir) {
			return dir, nil
		}
	}
	return "", fault.Authorf("no working directory: none of %s exists", strings.Join(dirs, ", "))
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
		Dir: p.dir, Env: p.env, Files: streams.childEnds(),
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
		return nil, fmt.Errorf("%w: process id %d is in use", errProtocol, req.ID)
	}
	s.oom.raise() // the child inherits it
	c.pid, err = syscall.ForkExec(p.file, p.argv, attr)
	s.oom.restore()
	if err != nil {
		streams.closeOwnEnds()
		return nil, startError(p, err)
	}
	s.byPID[c.pid], s.byID[c.id] = c, c
	return c, nil
}

// startError classifies what fork, chdir and exec return; it cannot tell which of them it was.
func startError(p plan, err error) error {
	for _, authors := range []error{
		unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.E2BIG, unix.ENOTDIR, unix.ELOOP, unix.EISDIR, unix.ETXTBSY, unix.EPERM,
		unix.ENAMETOOLONG, unix.ELIBBAD,
	} {
		if errors.Is(err, authors) {
			return fault.WithRemedy(
				fault.Authorf("starting %q as user %d in %s: %w", p.argv[0], p.user.uid, p.dir, err),
				"check that the file exists, is executable and made for this machine, and that the user may enter the directory")
		}
	}
	return fmt.Errorf("starting %q as user %d in %s: %w", p.argv[0], p.user.uid, p.dir, err)
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
