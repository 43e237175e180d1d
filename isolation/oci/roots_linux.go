package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/executor/api/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// scratch names what a sandbox has in its scratch directory.
type scratch string

func (s scratch) rootfs() string    { return s.path("rootfs") }     // the image's root, mounted
func (s scratch) upper() string     { return s.path("upper") }      // what the job changes of the image
func (s scratch) work() string      { return s.path("work") }       // overlayfs's own
func (s scratch) builds() string    { return s.path("builds") }     // isolation.BuildsDir
func (s scratch) cache() string     { return s.path("cache") }      // isolation.CacheDir, unless it is shared
func (s scratch) helper() string    { return s.path("helper") }     // the helper root, mounted
func (s scratch) helperEtc() string { return s.path("helper-etc") } // the helper root's layer of this sandbox
func (s scratch) helperTmp() string { return s.path("helper-tmp") } // the helper root's /tmp
func (s scratch) path(name string) string {
	return filepath.Join(string(s), name)
}

// mountRoots mounts the image's root and the helper root and makes both ready for what the container mounts
// in them.
func (r *Runtime) mountRoots(spec isolation.Spec) error {
	s := scratch(spec.ScratchDir)
	// The agent gives builds and cache to the image's USER.
	if err := makeDirs(0o755, s.rootfs(), s.upper(), s.work(), s.builds(), s.cache()); err != nil {
		return err
	}
	root := overlay{
		lower: spec.Image.Layers, upper: s.upper(), work: s.work(),
		flags: unix.MS_NODEV, // device nodes belong in /dev, which is a mount of its own
	}
	if err := root.mount(s.rootfs()); err != nil {
		return err
	}
	if err := prepareImage(s.rootfs(), spec); err != nil {
		return err
	}
	if spec.Helper == nil {
		return nil
	}
	return r.mountHelper(spec)
}

// imageMountPoints are where the container mounts something in the image's root.
var imageMountPoints = []string{
	"proc", "sys", "dev", "run",
	strings.TrimPrefix(isolation.Dir, "/"),
	strings.TrimPrefix(isolation.BuildsDir, "/"),
	strings.TrimPrefix(isolation.CacheDir, "/"),
}

// prepareImage makes the mount points in the image's root and writes its names files. What an image put there
// instead, a symbolic link say, is replaced in the scratch: a mount must never follow an image's link. The
// names files are the job's own copies, so that, unlike with Docker, `sed -i /etc/hosts` works in a job.
func prepareImage(rootfs string, spec isolation.Spec) error {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for _, name := range imageMountPoints {
		if err := ensureDir(root, name, 0o755); err != nil {
			return fault.Authorf("preparing /%s in the image: %w", name, err)
		}
	}
	if err := ensureDir(root, "tmp", fs.ModeSticky|0o777); err != nil {
		return fault.Authorf("preparing /tmp in the image: %w", err)
	}
	if _, err := root.Stat("etc"); errors.Is(err, fs.ErrNotExist) {
		err = ensureDir(root, "etc", 0o755)
		if err != nil {
			return fault.Authorf("preparing /etc in the image: %w", err)
		}
	}
	for name, content := range namesFiles(spec) {
		if err := replaceFile(root, name, content); err != nil {
			return fault.Authorf("writing /%s in the image: %w", name, err)
		}
	}
	return nil
}

// ensureDir makes name a directory of its own right: not a link to one. An existing one keeps its mode.
func ensureDir(root *os.Root, name string, mode fs.FileMode) error {
	info, err := root.Lstat(name)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = root.Remove(name)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o700); err != nil {
		return err
	}
	return root.Chmod(name, mode) // whatever the umask
}

// replaceFile makes name a regular file with the content, whatever it was.
func replaceFile(root *os.Root, name, content string) error {
	info, err := root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return root.WriteFile(name, []byte(content), 0o644)
}

// makeDirs makes directories of exactly this mode; those that exist get it.
func makeDirs(mode fs.FileMode, dirs ...string) error {
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("preparing the scratch: %w", err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			return fmt.Errorf("preparing the scratch: %w", err)
		}
	}
	return nil
}
