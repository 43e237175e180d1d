package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/images"
)

const (
	dockerStart = 60 * time.Second
	dockerStop  = 30 * time.Second
)

// docker is a dockerd of the bench's own: no bridge, no firewall rules, everything in one directory.
type docker struct {
	dir    string
	daemon *exec.Cmd
	exited chan struct{}
	log    bytes.Buffer
	// before are the paths that were there before it, of those that it may leave behind.
	before map[string]bool
}

// startDocker starts a dockerd with the image of busybox, or returns nil when none is installed.
func (b *bench) startDocker(ctx context.Context) (*docker, error) {
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, nil
	}
	dir, err := os.MkdirTemp(b.dir, "docker-")
	if err != nil {
		return nil, err
	}
	d := &docker{dir: dir, exited: make(chan struct{}), before: map[string]bool{}}
	for _, path := range leftByDocker() {
		_, err := os.Lstat(path)
		d.before[path] = err == nil
	}
	d.daemon = exec.Command(dockerd,
		"--host", d.address(), "--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"),
		"--pidfile", filepath.Join(d.dir, "pid"), "--bridge=none", "--iptables=false", "--ip6tables=false",
		"--ip-forward=false", "--ip-masq=false")
	d.daemon.Stdout, d.daemon.Stderr = &d.log, &d.log
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for the bench, which stops it
	if err := d.daemon.Start(); err != nil {
		return nil, err
	}
	go func() { _ = d.daemon.Wait(); close(d.exited) }()
	if err := d.load(ctx, b.busybox); err != nil {
		d.close()
		return nil, fmt.Errorf("%w\n%s", err, d.log.Bytes())
	}
	return d, nil
}

// load waits until dockerd answers and gives it an image.
func (d *docker) load(ctx context.Context, archive string) error {
	deadline := time.After(dockerStart)
	for {
		err := d.command("version").Run()
		if err == nil {
			break
		}
		select {
		case <-d.exited:
			return errors.New("dockerd ended at its start")
		case <-deadline:
			return fmt.Errorf("dockerd does not answer after %s: %w", dockerStart, err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
	if out, err := d.command("load", "--input", archive).CombinedOutput(); err != nil {
		return fmt.Errorf("docker load: %w: %s", err, out)
	}
	return nil
}

func (d *docker) address() string { return "unix://" + filepath.Join(d.dir, "sock") }

func (d *docker) command(args ...string) *exec.Cmd {
	return exec.Command("docker", append([]string{"--config", filepath.Join(d.dir, "config"), "--host", d.address()}, args...)...)
}

// container is a turn of `docker run --rm`.
func (d *docker) container(network string, row *series) turn {
	return func(ctx context.Context) error {
		took, err := timed(ctx, d.command("run", "--rm", "--network", network, images.BusyboxName, "true"))
		row.add(took)
		return err
	}
}

// close stops dockerd, which stops its containerd, and removes what they leave behind.
func (d *docker) close() {
	_ = d.daemon.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(dockerStop):
		_ = d.daemon.Process.Kill()
		<-d.exited
	}
	mounts, _ := filepath.Glob(filepath.Join(d.dir, "exec/netns/*"))
	for _, mount := range append(mounts, filepath.Join(d.dir, "data")) {
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
	for _, path := range leftByDocker() {
		if !d.before[path] {
			_ = os.Remove(path) // fails when it is a directory in use
		}
	}
}

// leftByDocker are what dockerd makes outside of the directories that it was given, and the cgroups above its
// containers.
func leftByDocker() []string {
	paths := []string{"/etc/docker/key.json", "/etc/docker", "/run/docker/plugins", "/run/docker"}
	controllers, err := os.ReadDir("/sys/fs/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return paths
	}
	for _, controller := range controllers {
		paths = append(paths, filepath.Join("/sys/fs/cgroup", controller.Name(), "docker"))
	}
	return append(paths, "/sys/fs/cgroup/docker")
}
