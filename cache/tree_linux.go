package cache

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// tree is a directory tree that is never left: the kernel is never asked to follow a symbolic link. What links lead
// to is found out by reading them, as if the tree were the root file system.
type tree struct {
	fd   int
	root *os.Root // for removing whole directories

	// The parent used last: tars list a directory's files together.
	lastDir string
	lastFD  int
	// askedDir is what locate was asked when it found that parent.
	askedDir string

	// implied is asked before a directory is made that was only named as a part of paths; nil allows it.
	implied func() error
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Systemf("unpacking: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fault.Systemf("unpacking: opening %s: %w", dir, err), root.Close())
	}
	return &tree{fd: fd, root: root, lastFD: -1}, nil
}

func (t *tree) close() {
	t.dropLast()
	_ = unix.Close(t.fd)
	_ = t.root.Close()
}

func (t *tree) dropLast() {
	if t.lastFD >= 0 {
		_ = unix.Close(t.lastFD)
		t.lastFD = -1
	}
}

// parent returns a descriptor of the directory that holds name, valid until the next call of a method.
func (t *tree) parent(name string, create bool) (int, error) {
	dir := path.Dir(name)
	if t.lastFD >= 0 && t.lastDir == dir {
		return t.lastFD, nil
	}
	fd, err := t.walk(dir, create)
	if err != nil {
		return 0, err
	}
	t.dropLast()
	t.lastDir, t.askedDir, t.lastFD = dir, dir, fd
	return fd, nil
}

// walk opens a directory by its path from the root; the caller closes it. Without create, a missing one is
// ENOENT. It follows no symbolic link: errThroughLink.
func (t *tree) walk(dir string, create bool) (int, error) {
	fd, err := unix.FcntlInt(uintptr(t.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, system("opening", dir, err)
	}
	if dir == "." || dir == "" {
		return fd, nil
	}
	for component := range strings.SplitSeq(dir, "/") {
		next, err := t.step(fd, component, dir, create)
		_ = unix.Close(fd)
		if err != nil {
			return 0, err
		}
		fd = next
	}
	return fd, nil
}

func (t *tree) step(fd int, component, dir string, create bool) (int, error) {
	next, err := openDirAt(fd, component)
	if err == nil {
		return next, nil
	}
	missing := errors.Is(err, unix.ENOENT)
	if missing && !create {
		return 0, err
	}
	if !missing && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return 0, system("opening", dir, err)
	}
	kind, err := statKind(fd, component)
	if err != nil {
		return 0, err
	}
	if kind == kindLink {
		return 0, errThroughLink
	}
	if kind == kindFile || kind == kindWhiteout && !create {
		return 0, fault.WithRemedy(fault.Authorf("path %.200q leads through %q, which is no directory", dir, component),
			"build the image again: its layers cannot have come from a file system")
	}
	if t.implied != nil {
		if err := t.implied(); err != nil {
			return 0, err
		}
	}
	return makeImplied(fd, component, dir, kind == kindWhiteout)
}

// impliedMark is an extended attribute of directories that a layer only names as a part of paths, until settle has
// found out what they are like in the layers below.
const impliedMark = "trusted.airlock.implied"

// impliedMark's values.
const (
	impliedLower = "lower" // it is the directory of the layers below, if these have it
	impliedNew   = "new"   // it is another one, because the layer removes theirs
)

// makeImplied makes a directory that the tar names only as a part of paths. Where the layer removes what was there it is
// a new one, else the one of the layers below.
func makeImplied(parent int, component, dir string, overWhiteout bool) (int, error) {
	if overWhiteout {
		if err := unix.Unlinkat(parent, component, 0); err != nil {
			return 0, system("replacing", dir, err)
		}
	}
	if err := unix.Mkdirat(parent, component, 0o755); err != nil {
		return 0, system("making", dir, err)
	}
	fd, err := openDirAt(parent, component)
	if err != nil {
		return 0, system("opening", dir, err)
	}
	err = system("changing the owner of", dir, unix.Fchown(fd, 0, 0)) // a set-group-id parent hands its group down
	if err == nil {
		err = system("changing the mode of", dir, unix.Fchmod(fd, 0o755)) // whatever the umask
	}
	if err == nil {
		err = markImplied(fd, impliedLower)
	}
	if err == nil && overWhiteout {
		err = replaceLower(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// replaceLower makes a directory of the layer another one than that of the layers below.
func replaceLower(fd int) error {
	if impliedAs(fd) == impliedLower {
		if err := markImplied(fd, impliedNew); err != nil {
			return err
		}
	}
	return setOpaque(fd)
}

func markImplied(fd int, as string) error {
	return system("marking", "a directory", unix.Fsetxattr(fd, impliedMark, []byte(as), 0))
}

// unmarkImplied is for directories that the layer lists after all.
func unmarkImplied(fd int) error {
	err := unix.Fremovexattr(fd, impliedMark)
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return system("unmarking", "a directory", err)
}

// impliedAs returns a directory's mark; "" if the layer lists it.
func impliedAs(fd int) string {
	var value [8]byte
	n, err := unix.Fgetxattr(fd, impliedMark, value[:])
	if err != nil {
		return ""
	}
	return string(value[:n])
}

// locate returns the name by which the tree knows an entry, with no symbolic link before its last part, and makes its
// parent when that is missing. Links are followed as if the tree were the root file system; where one leads to nothing,
// directories are made.
func (t *tree) locate(name string) (string, error) {
	dir, base := path.Dir(name), path.Base(name)
	if t.lastFD < 0 || t.askedDir != dir {
		_, err := t.parent(name, true)
		if errors.Is(err, errThroughLink) {
			var actual string
			if actual, err = resolve(dir, t.look); err == nil {
				_, err = t.parent(path.Join(actual, base), true)
			}
		}
		if err != nil {
			return "", err
		}
		t.askedDir = dir
	}
	return path.Join(t.lastDir, base), nil
}

// errThroughLink is why a path cannot be walked as it is.
var errThroughLink = errors.New("it leads through a symbolic link")

// look tells what a directory of the tree holds under a name, and what that leads to if it is a symbolic link.
func (t *tree) look(dir, base string) (kind, string, error) {
	fd, err := t.walk(dir, false)
	if err != nil {
		return kindNone, "", notThere(err)
	}
	defer unix.Close(fd)
	return lookIn(fd, base)
}

// notThere is nil for what walk says of a path that leads nowhere.
func notThere(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errThroughLink) || fault.ClassOf(err) == fault.Author {
		return nil
	}
	return err
}

func lookIn(fd int, base string) (kind, string, error) {
	kind, err := statKind(fd, base)
	if err != nil || kind != kindLink {
		return kind, "", err
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, base, target)
	if err != nil {
		return kind, "", system("reading", base, err)
	}
	return kind, string(target[:n]), nil
}

// maxFollowed is how many symbolic links a path may lead through: the kernel's own bound. maxSteps is how many parts
// their targets and the path may have together.
const (
	maxFollowed = 40
	maxSteps    = 4096
)

// resolve follows the symbolic links of a path as a kernel does for a process whose root the tree is: none leads out.
// look says what there is; what is not there has no links.
func resolve(name string, look func(dir, base string) (kind, string, error)) (string, error) {
	resolved, left, links := "", name, 0
	for steps := 0; left != ""; steps++ {
		var base string
		base, left, _ = strings.Cut(left, "/")
		switch base {
		case "", ".":
			continue
		case "..":
			resolved = strings.TrimPrefix(path.Dir("/"+resolved), "/")
			continue
		}
		kind, target, err := look(resolved, base)
		if err != nil {
			return "", err
		}
		if kind != kindLink {
			resolved = path.Join(resolved, base)
			continue
		}
		if links++; links > maxFollowed || steps > maxSteps {
			return "", fault.Authorf("path %.200q leads through too many symbolic links", name)
		}
		if path.IsAbs(target) {
			resolved = ""
		}
		left = target + "/" + left
	}
	return resolved, nil
}

// clear makes way for an entry of a kind. A directory stays for a directory. It returns what was there.
func (t *tree) clear(parent int, name string, wanted kind) (kind, error) {
	base := path.Base(name)
	was, err := statKind(parent, base)
	if err != nil || was == kindNone || was == kindDir && wanted == kindDir {
		return was, err
	}
	if was == kindDir {
		t.dropLast()
		if err := t.root.RemoveAll(name); err != nil {
			return was, fault.Systemf("unpacking: replacing %q: %w", name, err)
		}
		return was, nil
	}
	return was, system("replacing", name, unix.Unlinkat(parent, base, 0))
}

// kind is what a name stands for.
type kind int

const (
	kindNone kind = iota
	kindDir
	kindWhiteout
	kindLink
	kindFile // or anything else
)

func statKind(parent int, base string) (kind, error) {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return kindNone, nil
	case err != nil:
		return kindNone, system("looking at", base, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return kindDir, nil
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return kindWhiteout, nil
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return kindLink, nil
	default:
		return kindFile, nil
	}
}

func openDirAt(parent int, base string) (int, error) {
	return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// opaqueAttribute is overlayfs's mark of a directory that hides those below.
const opaqueAttribute = "trusted.overlay.opaque"

func setOpaque(fd int) error {
	return system("marking as opaque", "a directory", unix.Fsetxattr(fd, opaqueAttribute, []byte("y"), 0))
}

func isOpaque(fd int) bool {
	var value [1]byte
	n, err := unix.Fgetxattr(fd, opaqueAttribute, value[:])
	return err == nil && string(value[:n]) == "y"
}

func setTime(parent int, base, name string, when time.Time) error {
	return system("setting the time of", name, unix.UtimesNanoAt(parent, base, timespecs(when), unix.AT_SYMLINK_NOFOLLOW))
}

// maxTime is the last second that ext4 can tell: in the year 2446.
const maxTime = 1<<34 - 1<<31 - 1

// timespecs are a time as access and modification time, kept to what every file system and a disk can tell.
func timespecs(when time.Time) []unix.Timespec {
	both := unix.Timespec{Sec: min(max(when.Unix(), 0), maxTime), Nsec: int64(when.Nanosecond())}
	return []unix.Timespec{both, both}
}

// contentErrors are those that only the tar's content can cause: names, targets and attributes too long or of bytes that
// the file system does not allow, too many links, files too large.
var contentErrors = []unix.Errno{
	unix.ENAMETOOLONG, unix.EINVAL, unix.EMLINK, unix.E2BIG, unix.ERANGE, unix.EILSEQ, unix.EFBIG, unix.EOVERFLOW,
}

// system classifies a failed system call. What only the tar's content can cause is the author's.
func system(doing, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case slices.ContainsFunc(contentErrors, func(e unix.Errno) bool { return errors.Is(err, e) }):
		return fault.Authorf("the image holds what no file system can: %s %.200q: %w", doing, name, err)
	default:
		return fault.Systemf("unpacking: %s %.200q: %w", doing, name, err)
	}
}

// syncFileSystem makes everything written below dir last.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the cache: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fault.Systemf("syncing the cache: %w", err)
	}
	return nil
}
