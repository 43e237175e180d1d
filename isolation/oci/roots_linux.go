package oci

import (
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/layout"
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
	// The agent gives builds to the image's USER, and lets every user into the cache.
	if err := layout.MakeDirs(0o755, s.rootfs(), s.upper(), s.work(), s.builds(), s.cache()); err != nil {
		return err
	}
	root := overlay{
		lower: spec.Image.Layers, upper: s.upper(), work: s.work(),
		flags: unix.MS_NODEV, // device nodes belong in /dev, which is a mount of its own
	}
	if err := root.mount(s.rootfs()); err != nil {
		return err
	}
	if err := layout.PrepareImage(s.rootfs(), layout.NamesFiles(spec)); err != nil {
		return err
	}
	if spec.Helper == nil {
		return nil
	}
	return r.mountHelper(spec)
}
