package fakes

import (
	"context"
	_ "embed" // stage.sh
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/creack/pty"
	"github.com/moby/sys/user"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// ShellRuntime returns a runtime whose sandboxes exist in w and whose stages are real processes, for which
// World.Script is not asked. A sandbox is a copy of its image below Spec.ScratchDir, which the processes have as
// their root. Namespaces keep what they do (and the conformance suite has them do a lot) from this machine: their
// processes, mounts and host name; but the network, the users and all resources are this machine's. It needs
// root.
func (w *World) ShellRuntime(level isolation.Level) isolation.Runtime {
	return &runtime{w, level, shell{}}
}

// shell is the engine whose processes are real. Below the ScratchDir of a sandbox it has
//
//	upper/   the image's root
//	helper/  the helper root
//	builds/  and cache/, which both see
type shell struct{}

//go:embed stage.sh
var stageScript string

func (shell) name() string { return "fake-shell" }

func (e shell) create(spec isolation.Spec) error {
	err := e.makeRoots(spec)
	if err == nil {
		_, err = findUser(filepath.Join(spec.ScratchDir, "upper"), spec.Image.Config.User)
	}
	if err != nil {
		return errors.Join(err, e.remove(spec))
	}
	return nil
}

func (shell) makeRoots(spec isolation.Spec) error {
	for _, shared := range []string{"builds", "cache"} {
		if err := mkdir(filepath.Join(spec.ScratchDir, shared), 0o777); err != nil {
			return err
		}
	}
	if err := makeRoot(filepath.Join(spec.ScratchDir, "upper"), spec.Image.Layers, spec); err != nil || spec.Helper == nil {
		return err
	}
	return makeRoot(filepath.Join(spec.ScratchDir, "helper"), spec.Helper.Layers, spec)
}

func makeRoot(root string, layers []string, spec isolation.Spec) error {
	if err := mkdir(root, 0o755); err != nil {
		return err
	}
	for i := range layers {
		layer := layers[len(layers)-1-i] + "/." // the lowest first
		if said, err := exec.Command("cp", "-a", layer, root).CombinedOutput(); err != nil {
			return fmt.Errorf("copying the layer %s: %w: %s", layer, err, said)
		}
	}
	for _, dir := range []string{"proc", "dev", "tmp", "etc", isolation.BuildsDir, isolation.CacheDir, isolation.HomeDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := mkdir(filepath.Join(root, isolation.ScriptDir), 0o711); err != nil {
		return err
	}
	for name, text := range names(spec) {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// names are the files of /etc by which a sandbox knows itself and others.
func names(spec isolation.Spec) map[string]string {
	hosts := append([]string{"127.0.0.1 localhost", "127.0.1.1 " + spec.Hostname}, spec.Network.Hosts...)
	var resolver strings.Builder
	for _, server := range spec.Network.Nameservers {
		fmt.Fprintln(&resolver, "nameserver", server)
	}
	for _, line := range []struct {
		word   string
		values []string
	}{{"search", spec.Network.Search}, {"options", spec.Network.Options}} {
		word, values := line.word, line.values
		if len(values) > 0 {
			fmt.Fprintln(&resolver, word, strings.Join(values, " "))
		}
	}
	return map[string]string{
		"hostname": spec.Hostname + "\n", "hosts": strings.Join(hosts, "\n") + "\n", "resolv.conf": resolver.String(),
	}
}

// mkdir makes one directory with exactly that mode.
func mkdir(dir string, mode os.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

func (shell) remove(spec isolation.Spec) error {
	var errs []error
	for _, made := range []string{"upper", "helper", "builds", "cache"} {
		errs = append(errs, os.RemoveAll(filepath.Join(spec.ScratchDir, made)))
	}
	return errors.Join(errs...)
}

func (e shell) start(ctx context.Context, sandbox isolation.Spec, spec isolation.ProcessSpec) (task, error) {
	root, dir, readOnly := sandbox.Image, filepath.Join(sandbox.ScratchDir, "upper"), false
	if spec.Helper && sandbox.Helper != nil {
		root, dir, readOnly = *sandbox.Helper, filepath.Join(sandbox.ScratchDir, "helper"), true
	}
	name := root.Config.User
	if spec.User != "" {
		name = spec.User
	}
	account, err := findUser(dir, name)
	if err != nil {
		return nil, err
	}
	if readOnly {
		account.Home = isolation.HomeDir
	}
	env := append(append([]string{"HOME=" + account.Home}, root.Config.Env...), spec.Env...)
	t := &stage{}
	args, err := t.commandLine(dir, spec, env, account)
	if err != nil {
		return nil, err
	}
	if spec.Dir == "" {
		spec.Dir = isolation.BuildsDir
	}
	var groups []string
	for _, group := range account.Sgids {
		groups = append(groups, fmt.Sprint(group))
	}
	line := append([]string{"-c", stageScript, "stage.sh", dir, fmt.Sprintf("%d:%d", account.Uid, account.Gid),
		strings.Join(groups, ","), fmt.Sprint(readOnly), spec.Dir}, args...)
	t.cmd = exec.CommandContext(ctx, "/bin/sh", line...)
	t.cmd.Env = env
	t.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
	}
	return t, t.launch(spec)
}

func findUser(root, name string) (*user.ExecUser, error) {
	found, err := user.GetExecUserPath(name, &user.ExecUser{Home: "/"}, filepath.Join(root, "etc/passwd"),
		filepath.Join(root, "etc/group"))
	if err != nil {
		return nil, fault.Authorf("the user %q: %w", name, err)
	}
	return found, nil
}

// lookUp returns the path of a program, by the PATH of env.
func lookUp(root, program string, env []string) (string, error) {
	var path string
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, "PATH="); ok {
			path = value
		}
	}
	dirs := filepath.SplitList(path)
	if strings.Contains(program, "/") {
		dirs = []string{""}
	}
	for _, dir := range dirs {
		if _, err := os.Lstat(filepath.Join(root, dir, program)); err == nil {
			return filepath.Join("/", dir, program), nil
		}
	}
	return "", fault.Authorf("there is no program %q in the sandbox (PATH is %s)", program, path)
}

// stage is a process of the shell engine.
type stage struct {
	cmd      *exec.Cmd
	script   string   // its file, if it has one
	terminal *os.File // if it has one
	shown    chan struct{}
}

// commandLine returns what is to be executed in the root. A script is written to a file of its own there.
func (t *stage) commandLine(root string, spec isolation.ProcessSpec, env []string, account *user.ExecUser) ([]string, error) {
	if spec.Script == nil && len(spec.Args) > 0 {
		program, err := lookUp(root, spec.Args[0], env)
		return append([]string{program}, spec.Args[1:]...), err
	}
	shell := "/bin/sh"
	if _, err := os.Lstat(filepath.Join(root, "bin/bash")); err == nil {
		shell = "/bin/bash"
	}
	if spec.Script == nil {
		return []string{shell}, nil
	}
	file, err := os.CreateTemp(filepath.Join(root, isolation.ScriptDir), "")
	if err != nil {
		return nil, err
	}
	t.script = file.Name()
	_, err = file.Write(spec.Script)
	err = errors.Join(err, file.Chmod(0o500), file.Chown(account.Uid, account.Gid), file.Close())
	return []string{shell, filepath.Join(isolation.ScriptDir, filepath.Base(t.script))}, err
}

func (t *stage) launch(spec isolation.ProcessSpec) error {
	if !spec.TTY {
		t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = spec.Stdin, lossy(spec.Stdout), lossy(spec.Stderr)
		return t.cmd.Start()
	}
	terminal, err := pty.StartWithSize(t.cmd, &pty.Winsize{Rows: spec.Rows, Cols: spec.Columns})
	if err != nil {
		return err
	}
	t.terminal, t.shown = terminal, make(chan struct{})
	if spec.Stdin != nil {
		go func() { _, _ = io.Copy(terminal, spec.Stdin) }()
	}
	go func() {
		defer close(t.shown)
		_, _ = io.Copy(lossy(spec.Stdout), terminal) // ends with EIO when the last process has gone
	}()
	return nil
}

func (t *stage) wait() isolation.Exit {
	_ = t.cmd.Wait() // the state says it all
	if t.terminal != nil {
		<-t.shown
		_ = t.terminal.Close()
	}
	if t.script != "" {
		_ = os.Remove(t.script) // unless the sandbox goes with it
	}
	status := t.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return isolation.Exit{Code: 128 + int(status.Signal()), Signal: int(status.Signal())}
	}
	exit := isolation.Exit{Code: status.ExitStatus()}
	if exit.Code > 128 && exit.Code <= 128+64 { // as stage.sh's shell tells of a signal; a script may pretend it
		exit.Signal = exit.Code - 128
	}
	return exit
}

// signal reaches the stage's process group; of 9, which ends stage.sh, nothing survives.
func (t *stage) signal(number int) error {
	err := syscall.Kill(-t.cmd.Process.Pid, syscall.Signal(number))
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

func (t *stage) resize(rows, columns uint16) error {
	if t.terminal == nil {
		return nil
	}
	return pty.Setsize(t.terminal, &pty.Winsize{Rows: rows, Cols: columns})
}

// lossy returns a writer that takes everything although w may fail; nil takes everything too.
func lossy(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return &lossyWriter{w: w}
}

type lossyWriter struct {
	w      io.Writer
	failed bool
}

func (l *lossyWriter) Write(p []byte) (int, error) {
	if !l.failed {
		_, err := l.w.Write(p)
		l.failed = err != nil
	}
	return len(p), nil
}
