package disk

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/tree"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// maxDiskFile is the largest file that a disk can hold, in bytes: the converter's extents are wrong from 42 GiB on.
const maxDiskFile = 32 << 30

// merge writes as one tar what an overlay of the layers, upper-most first, shows. It reads the layers themselves
// and mounts nothing: no privilege is needed, and nothing can be left.
//
// Errors of reading are the system's; all others say what a tar or the receiver cannot hold.
func merge(ctx context.Context, layers []string, to io.Writer) error {
	m := &merger{ctx: ctx, tar: tar.NewWriter(to), written: map[tree.FileID]string{}, buffer: make([]byte, 256<<10)}
	var trees []*tree.Tree
	defer func() {
		for _, t := range trees {
			t.Close()
		}
	}()
	for _, dir := range layers {
		t, err := tree.Open(dir)
		if err != nil {
			return err
		}
		trees = append(trees, t)
	}
	if len(trees) > 0 {
		if err := m.directory("", trees); err != nil {
			return err
		}
	}
	return m.tar.Close()
}

type merger struct {
	ctx     context.Context
	tar     *tar.Writer
	written map[tree.FileID]string // the first name of files that have several
	buffer  []byte
}

// directory writes a directory, which all of these layers have, and what is in it. Only while it writes the files
// of one directory does it hold descriptors, one for each layer: neither depth nor width uses them up.
func (m *merger) directory(name string, layers []*tree.Tree) error {
	fds, layers, err := tree.OpenAll(m.ctx, name, layers)
	defer func() { tree.CloseAll(fds) }()
	if err != nil {
		return err
	}
	if err := m.writeDirectory(name, fds[0]); err != nil {
		return err
	}
	children, err := tree.List(name, fds)
	if err != nil {
		return err
	}
	var below []string
	for _, base := range sortedNames(children) {
		switch c := children[base]; {
		case len(c.Dirs) > 0:
			below = append(below, base)
		case !c.Hidden:
			if err := m.file(path.Join(name, base), fds[c.Layer], base); err != nil {
				return err
			}
		}
	}
	tree.CloseAll(fds)
	fds = nil
	for _, base := range below {
		trees := make([]*tree.Tree, 0, len(children[base].Dirs))
		for _, i := range children[base].Dirs {
			trees = append(trees, layers[i])
		}
		if err := m.directory(path.Join(name, base), trees); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) writeDirectory(name string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return tree.Reading("looking at", name, err)
	}
	header := headerOf(name+"/", tar.TypeDir, &st)
	if name == "" {
		header.Name = "./"
	}
	if err := addAttributes(header, fd); err != nil {
		return err
	}
	return m.tar.WriteHeader(header)
}

// file writes what is no directory.
func (m *merger) file(name string, parent int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return tree.Reading("looking at", name, err)
	}
	if st.Nlink > 1 {
		id := tree.FileID{Dev: st.Dev, Ino: st.Ino}
		if first, again := m.written[id]; again {
			header := headerOf(name, tar.TypeLink, &st)
			header.Linkname = first
			return m.tar.WriteHeader(header)
		}
		m.written[id] = name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return m.regular(name, parent, base)
	case unix.S_IFLNK:
		header := headerOf(name, tar.TypeSymlink, &st)
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(parent, base, target)
		if err != nil {
			return tree.Reading("reading", name, err)
		}
		header.Linkname = string(target[:n])
		return m.tar.WriteHeader(header)
	case unix.S_IFIFO:
		return m.tar.WriteHeader(headerOf(name, tar.TypeFifo, &st))
	default:
		return fault.Systemf("layers hold %.200q, of unknown type %#o", name, st.Mode&unix.S_IFMT)
	}
}

func (m *merger) regular(name string, parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return tree.Reading("opening", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return tree.Reading("looking at", name, err)
	}
	if st.Size > maxDiskFile {
		return fault.WithRemedy(fault.Authorf("the image's %.200q has %s, %s are allowed", name, bytesize.Format(st.Size), bytesize.Format(maxDiskFile)),
			"make the file smaller, or run the job at level process")
	}
	header := headerOf(name, tar.TypeReg, &st)
	header.Size = st.Size
	if err := addAttributes(header, fd); err != nil {
		return err
	}
	if err := m.tar.WriteHeader(header); err != nil {
		return err
	}
	content := &layerFile{ctx: m.ctx, file: f}
	n, err := io.CopyBuffer(struct{ io.Writer }{m.tar}, io.LimitReader(content, st.Size), m.buffer)
	switch {
	case content.err != nil:
		return tree.Reading("reading", name, content.err)
	case err == nil && n < st.Size:
		return fault.Systemf("layers changed: %.200q lost its end", name)
	}
	return err
}

// layerFile tells errors of reading a layer apart from those of writing it elsewhere.
type layerFile struct {
	ctx  context.Context
	file *os.File
	err  error
}

// Read is io.Reader's.
func (l *layerFile) Read(p []byte) (int, error) {
	if l.ctx.Err() != nil {
		l.err = context.Cause(l.ctx)
		return 0, l.err
	}
	n, err := l.file.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		l.err = err
	}
	return n, err
}

// headerOf carries over owner, mode and modification time. A disk cannot tell times before 1970.
func headerOf(name string, kind byte, st *unix.Stat_t) *tar.Header {
	modified := time.Unix(max(st.Mtim.Sec, 0), st.Mtim.Nsec)
	return &tar.Header{
		Typeflag: kind, Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Format: tar.FormatPAX,
		ModTime: modified, AccessTime: modified, ChangeTime: modified,
	}
}

// addAttributes carries over the extended attributes that unpacking keeps.
func addAttributes(header *tar.Header, fd int) error {
	attributes, err := tree.AttributesOn(fd)
	if err != nil {
		return tree.Reading("reading the attributes of", header.Name, err)
	}
	for name, value := range attributes {
		if header.PAXRecords == nil {
			header.PAXRecords = map[string]string{}
		}
		header.PAXRecords["SCHILY.xattr."+name] = value
	}
	return nil
}

func sortedNames(children map[string]*tree.Child) []string {
	names := make([]string, 0, len(children))
	for name := range children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
