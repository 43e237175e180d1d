package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// guard passes a layer's tar on to the importer, and fails before the first entry that the image may not hold. hcsshim
// bounds nothing: a sparse entry of some bytes becomes a file of any size, and what is on the disk is too late to judge.
type guard struct {
	left    *space.Budget
	from    io.Reader
	entries *tar.Reader // of from, by way of held; nil after the tar's end
	inside  bool        // an entry's content
	held    bytes.Buffer
	chunk   [64 << 10]byte
	err     error // of from, or the reason to read no further
}

// maxHeld bounds what of a tar is held before its next entry is known, in bytes: archive/tar reads extended headers, long
// names and long links of 1 MiB each, and any number of them.
const maxHeld = 8 << 20

func newGuard(from io.Reader, left *space.Budget) *guard {
	g := &guard{from: from, left: left}
	g.entries = tar.NewReader(io.TeeReader(from, (*holder)(g)))
	return g
}

// holder is the guard where its tar reader's bytes go.
type holder guard

func (h *holder) Write(p []byte) (int, error) {
	if h.held.Len()+len(p) > maxHeld {
		return 0, fault.Authorf("the image is broken: a layer has an entry whose headers do not end")
	}
	return h.held.Write(p)
}

// Read is io.Reader's: the very bytes of the tar, and what follows it.
func (g *guard) Read(p []byte) (int, error) {
	for g.held.Len() == 0 && g.err == nil {
		g.err = g.advance()
	}
	if g.held.Len() == 0 {
		return 0, g.err
	}
	return g.held.Read(p)
}

// advance puts the next bytes into held, once they are found to be good.
func (g *guard) advance() error {
	if g.entries == nil {
		_, err := io.CopyN(&g.held, g.from, int64(len(g.chunk)))
		return err
	}
	if g.inside {
		_, err := g.entries.Read(g.chunk[:])
		if errors.Is(err, io.EOF) {
			g.inside, err = false, nil
		}
		return err
	}
	header, err := g.entries.Next()
	if errors.Is(err, io.EOF) {
		g.entries = nil
		return nil
	}
	if err != nil {
		if classified := (*fault.Error)(nil); !errors.As(err, &classified) {
			err = fmt.Errorf("reading its tar: %w", err)
		}
	} else {
		err = g.check(header)
	}
	if err != nil {
		g.held.Reset()
		return err
	}
	g.inside = true
	return nil
}

// check refuses what archive/tar would blow up, and names that are ours: the mark of complete layers lies beside what a
// base holds.
func (g *guard) check(header *tar.Header) error {
	sparse := header.Typeflag == tar.TypeGNUSparse
	for key := range header.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	if sparse {
		return fault.Authorf("the image is broken: %s is sparse, which layers of Windows images never are", untrusted.Printable(header.Name, 200))
	}
	name := strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(header.Name, `\`, "/")), "/")
	if top, _, _ := strings.Cut(name, "/"); strings.EqualFold(top, completeName) {
		return fault.Authorf("the image is broken: %s has no place in a layer", untrusted.Printable(header.Name, 200))
	}
	return g.left.Take(space.Use{Bytes: header.Size, Inodes: 1})
}
