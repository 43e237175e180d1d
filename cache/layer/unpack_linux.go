package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/tree"
	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Markers of the OCI image layer format: files that stand for what a layer removes.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// unpacked is what unpacking a layer found out.
type unpacked struct {
	omitted Omitted
	// dependent is true when what the layer shows hangs on the layers below it in more than its root directory.
	dependent bool
}

// unpack writes a layer's tar into the new directory dir, in overlayfs's format. It is settle that fits the
// layer to those below it. Every error that is not classified means that the tar itself is broken.
//
// Nothing is ever written outside dir: each path is walked from dir's descriptor one component at a time. Names are
// first made relative to the root ("/x" and "../x" are "x"). A path that leads through a symbolic link of the same layer
// is followed as if dir were the root, as containerd does; one that leads through a file refuses the image. Later
// entries replace earlier ones. Parents that the tar lacks are marked as implied.
//
// A hard link's target has to be in the same layer. Device nodes are left out, and counted except below /dev: a sandbox
// has its own /dev. Of the extended attributes, security.capability and user.* are kept, as far as they fit into
// maxAttributes. Owners, modes with set-user-id bits and modification times are exact; times before 1970 become that.
func unpack(ctx context.Context, dir string, stream io.Reader, left *space.Budget) (unpacked, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return unpacked{}, fault.Systemf("unpacking: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return unpacked{}, fault.Systemf("unpacking: %w", err)
	}
	t, err := tree.Open(dir)
	if err != nil {
		return unpacked{}, err
	}
	defer t.Close()
	u := &unpacker{tree: t, left: left, dirTimes: map[string]time.Time{}, buffer: make([]byte, 256<<10)}
	t.Implied = u.implied
	if err := tree.MarkImplied(t.FD, tree.ImpliedLower); err != nil {
		return unpacked{}, err
	}
	reader := tar.NewReader(untrusted.Interruptible(ctx, stream))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return u.unpacked, u.setDirTimes()
		}
		if err != nil {
			return unpacked{}, fmt.Errorf("reading its tar: %w", err)
		}
		if err := u.entry(header, left.Writing(reader)); err != nil {
			return unpacked{}, err
		}
	}
}

// unpacker unpacks one layer.
type unpacker struct {
	unpacked
	tree     *tree.Tree
	left     *space.Budget
	dirTimes map[string]time.Time // set last: what is made in a directory changes its time
	buffer   []byte
}

// implied charges a directory that the tar only names as a part of paths: one long path may name thousands.
func (u *unpacker) implied() error {
	u.dependent = true
	return u.left.TakeAlso(impliedCost)
}

func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
	if err := u.checkEntry(header, name); err != nil {
		return err
	}
	if name == "" {
		return u.root(header)
	}
	if isDevice(header) {
		if !strings.HasPrefix(name, "dev/") {
			u.omitted.Add(omittedDevice, "/"+name)
		}
		return nil
	}
	name, err := u.tree.Locate(name)
	if err != nil {
		return err
	}
	if handled, err := u.whiteout(name); handled || err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return u.directory(header, name)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.file(header, name, content)
	case tar.TypeSymlink:
		return u.symlink(header, name)
	case tar.TypeLink:
		return u.hardLink(header, name)
	case tar.TypeFifo:
		return u.fifo(header, name)
	default:
		return fault.Authorf("%.200q is of unknown type %q", name, header.Typeflag)
	}
}

func isDevice(header *tar.Header) bool {
	return header.Typeflag == tar.TypeChar || header.Typeflag == tar.TypeBlock
}

// checkEntry charges the budget and refuses what no file system could hold.
func (u *unpacker) checkEntry(header *tar.Header, name string) error {
	if len(name) >= unix.PathMax {
		return fault.Authorf("a path is longer than %d bytes: %.100q...", unix.PathMax, name)
	}
	if err := checkOwner(header, name); err != nil {
		return err
	}
	if header.Size < 0 || header.Size > maxFile {
		return fault.Authorf("%q claims to have %d bytes", name, header.Size)
	}
	return u.left.Take(costOf(header, name))
}

func checkOwner(header *tar.Header, name string) error {
	// -1 would mean "leave it" to chown.
	for _, id := range []int{header.Uid, header.Gid} {
		if id < 0 || int64(id) >= math.MaxUint32 {
			return fault.Authorf("%q belongs to the impossible user or group %d", name, id)
		}
	}
	return nil
}

func (u *unpacker) root(header *tar.Header) error {
	if header.Typeflag != tar.TypeDir {
		return fault.Authorf("the root directory is given as something else (type %q)", header.Typeflag)
	}
	u.dirTimes[""] = header.ModTime
	if err := tree.UnmarkImplied(u.tree.FD); err != nil {
		return err
	}
	return u.setAttributes(u.tree.FD, header)
}

// whiteout handles the markers. A marker hides what lower layers have, never what this layer has, wherever
// in the tar it stands.
func (u *unpacker) whiteout(name string) (handled bool, err error) {
	dir, base := path.Split(name)
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return false, nil
	}
	parent, err := u.tree.Parent(name, true)
	if err != nil {
		return true, err
	}
	u.dependent = true
	if base == opaqueMarker {
		return true, tree.SetOpaque(parent)
	}
	if strings.HasPrefix(base, aufsPrefix) {
		return true, nil // bookkeeping of aufs
	}
	target := strings.TrimPrefix(base, whiteoutPrefix)
	if target == "" || target == "." || target == ".." {
		return true, fault.Authorf("%.200q is a whiteout of nothing", name)
	}
	switch kind, err := tree.StatKind(parent, target); {
	case err != nil:
		return true, err
	case kind == tree.KindNone:
		return true, tree.Classify("whiting out", path.Join(dir, target), unix.Mknodat(parent, target, unix.S_IFCHR, 0))
	case kind == tree.KindDir:
		fd, err := tree.OpenDirAt(parent, target)
		if err != nil {
			return true, tree.Classify("opening", path.Join(dir, target), err)
		}
		defer unix.Close(fd)
		return true, tree.ReplaceLower(fd)
	}
	return true, nil
}

func (u *unpacker) setDirTimes() error {
	names := make([]string, 0, len(u.dirTimes))
	for name := range u.dirTimes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fd, err := u.tree.Walk(name, false)
		if err != nil {
			continue // a later entry replaced it
		}
		times := timespecs(u.dirTimes[name])
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0)
		unix.Close(fd)
		if err != nil {
			return tree.Classify("setting the time of", name, err)
		}
	}
	return nil
}
