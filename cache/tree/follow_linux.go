package tree

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Locate returns the name by which the tree knows an entry, with no symbolic link before its last part, and makes its
// parent when that is missing. Links are followed as if the tree were the root file system; where one leads to nothing,
// directories are made.
func (t *Tree) Locate(name string) (string, error) {
	dir, base := path.Dir(name), path.Base(name)
	if t.lastFD < 0 || t.askedDir != dir {
		_, err := t.Parent(name, true)
		if errors.Is(err, ErrThroughLink) {
			var actual string
			if actual, err = Resolve(dir, t.Look); err == nil {
				_, err = t.Parent(path.Join(actual, base), true)
			}
		}
		if err != nil {
			return "", err
		}
		t.askedDir = dir
	}
	return path.Join(t.lastDir, base), nil
}

// ErrThroughLink is why a path cannot be walked as it is.
var ErrThroughLink = errors.New("it leads through a symbolic link")

// Look returns what a directory of the tree holds under a name, and what that leads to if it is a symbolic link.
func (t *Tree) Look(dir, base string) (Kind, string, error) {
	fd, err := t.Walk(dir, false)
	if err != nil {
		return KindNone, "", NotThere(err)
	}
	defer unix.Close(fd)
	return LookIn(fd, base)
}

// NotThere is nil for what walk says of a path that leads nowhere.
func NotThere(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, ErrThroughLink) || fault.ClassOf(err) == fault.Author {
		return nil
	}
	return err
}

// LookIn is Look for a directory that is open.
func LookIn(fd int, base string) (Kind, string, error) {
	kind, err := StatKind(fd, base)
	if err != nil || kind != KindLink {
		return kind, "", err
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, base, target)
	if err != nil {
		return kind, "", Classify("reading", base, err)
	}
	return kind, string(target[:n]), nil
}

// MaxFollowed is how many symbolic links a path may lead through: the kernel's own bound. maxSteps is how many parts
// their targets and the path may have together.
const (
	MaxFollowed = 40
	maxSteps    = 4096
)

// Resolve follows the symbolic links of a path as a kernel does for a process whose root the tree is: none leads out.
// look says what there is; what is not there has no links.
func Resolve(name string, look func(dir, base string) (Kind, string, error)) (string, error) {
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
		if kind != KindLink {
			resolved = path.Join(resolved, base)
			continue
		}
		if links++; links > MaxFollowed || steps > maxSteps {
			return "", fault.Authorf("path %.200q leads through too many symbolic links", name)
		}
		if path.IsAbs(target) {
			resolved = ""
		}
		left = target + "/" + left
	}
	return resolved, nil
}
