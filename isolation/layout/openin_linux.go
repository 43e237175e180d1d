package layout

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenIn opens a path of the root file system whose directory is rootfs, as a process that is chrooted there would: no link
// leads out of it. Concurrent renames make openat2(2) give up with EAGAIN; it is tried again. gVisor before September 2026 has
// no such call: there the path is walked.
func OpenIn(rootfs int, path string, flags int, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve}
	for range 100 {
		fd, err := unix.Openat2(rootfs, path, how)
		if errors.Is(err, unix.ENOSYS) {
			return walkIn(rootfs, path, flags, resolve)
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// maxLinks is how many symbolic links a path may lead over: the kernel's own bound, path_resolution(7).
const maxLinks = 40

// walk is a path that is being resolved, one name after the other. Each directory on the way is held open, so that "..", too,
// leads where it came from, and not where a rename has put a directory since.
type walk struct {
	dirs    []int // the root's own descriptor first; the others are the walk's
	left    []string
	links   int
	device  uint64
	resolve uint64
}

// walkIn does what openat2(2) does for OpenIn.
func walkIn(rootfs int, path string, flags int, resolve uint64) (int, error) {
	w := &walk{dirs: []int{rootfs}, left: names(path), resolve: resolve}
	defer w.leave(1)
	var st unix.Stat_t
	if err := unix.Fstat(rootfs, &st); err != nil {
		return -1, err
	}
	w.device = st.Dev
	for len(w.left) > 0 {
		name := w.left[0]
		w.left = w.left[1:]
		if name == ".." {
			w.leave(max(1, len(w.dirs)-1))
			continue
		}
		fd, err := unix.Openat(w.here(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		w.dirs = append(w.dirs, fd)
		link, err := w.check(fd)
		last := len(w.left) == 0
		switch {
		case err != nil:
			return -1, err
		case last && (!link || flags&unix.O_NOFOLLOW != 0):
			w.leave(len(w.dirs) - 1)
			return w.open(name, flags)
		case link:
			if err := w.follow(name); err != nil {
				return -1, err
			}
		}
	}
	return w.open(".", flags)
}

// names returns the names that a path consists of.
func names(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}

// here is what the walk has come to.
func (w *walk) here() int { return w.dirs[len(w.dirs)-1] }

// leave closes all but the first descriptors.
func (w *walk) leave(keep int) {
	for _, fd := range w.dirs[keep:] {
		_ = unix.Close(fd)
	}
	w.dirs = w.dirs[:keep]
}

// check reports whether what was found is a symbolic link, and refuses what lies on another file system if that is asked for.
func (w *walk) check(fd int) (link bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if w.resolve&unix.RESOLVE_NO_XDEV != 0 && st.Dev != w.device {
		return false, unix.EXDEV
	}
	return st.Mode&unix.S_IFMT == unix.S_IFLNK, nil
}

// follow puts the target of the link, which the walk has come to, before what is left of the path. A link of proc with an
// absolute target is a magic one, which leads where its text does not.
func (w *walk) follow(name string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(w.here(), &fs); err != nil {
		return err
	}
	w.leave(len(w.dirs) - 1)
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(w.here(), name, target)
	if err != nil {
		return err
	}
	text := string(target[:n])
	w.links++
	if w.links > maxLinks || w.resolve&unix.RESOLVE_NO_SYMLINKS != 0 || fs.Type == unix.PROC_SUPER_MAGIC && strings.HasPrefix(text, "/") {
		return unix.ELOOP
	}
	if strings.HasPrefix(text, "/") {
		w.leave(1)
	}
	w.left = append(names(text), w.left...)
	return nil
}

// open opens what the walk has found. What was replaced by a link meanwhile is not followed.
func (w *walk) open(name string, flags int) (int, error) {
	return unix.Openat(w.here(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}
