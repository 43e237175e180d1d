// Package layer owns the unpacked layers of a cache: it reads, verifies, unpacks, fits and discards them.
//
// On Linux a layer is a directory in overlayfs's format, named by its chain id and fitted to the layers below. On Windows
// a process of its own imports it (Import), behind a guard of its tar. Nothing is ever written outside a layer's
// directory, no layer counts before it is complete and synced, and a complete one never changes. It knows no image and no
// registry: who opens the tar is the caller's concern. The facade stores layers, and the records say which are needed.
package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/trash"
)

// Wanted is one layer to store.
type Wanted struct {
	Blob   v1.Descriptor // zero when its origin has no blob digests
	Open   func(context.Context) (io.ReadCloser, error)
	DiffID string // of the content
	ID     string // its name here
	// Below are the ids of the layers below it, lowest first.
	Below []string
	// AwaitBelow waits until those are there.
	AwaitBelow func(context.Context) error
	// Transferred counts the bytes that came.
	Transferred *atomic.Int64
}

// Stored is what is known of a layer that is here.
type Stored struct {
	Use     space.Use
	Omitted Omitted
}

// IDs names layers as the OCI image specification's chain ids do: by their content and that of those below. The
// same layer may show another tree above others: directories that it does not list are as the layers below have them,
// and a layer of Windows is only good above those that it was imported upon.
func IDs(diffIDs []v1.Hash) []string {
	ids := make([]string, len(diffIDs))
	for i, id := range diffIDs {
		ids[i] = id.String()
		if i > 0 {
			sum := sha256.Sum256([]byte(ids[i-1] + " " + id.String()))
			ids[i] = idPrefix + hex.EncodeToString(sum[:])
		}
	}
	return ids
}

const idPrefix = "sha256:"

var idPattern = regexp.MustCompile(`^` + idPrefix + `[0-9a-f]{64}$`)

// IsID reports whether a text is a layer's id; others must not become paths.
func IsID(text string) bool { return idPattern.MatchString(text) }

// Options say where layers are and what they need.
type Options struct {
	// Dir is a directory of layers alone. Ingest is one, on the same file system, for layers in the making; the caller
	// empties it at the start.
	Dir, Ingest string
	// Importer is, on Windows, the command that imports a layer in a process of its own: see Import. The layer's
	// directory and those below it are added as arguments.
	Importer []string
	Trash    *trash.Trash
	// Background counts what goes on when a method has returned.
	Background *sync.WaitGroup
	Log        zerolog.Logger
}

// Layers are the unpacked layers in one directory. Those that are complete never change.
type Layers struct {
	platformState //nolint:unused // see store_windows.go
	opts          Options
}

// New returns the layers in a directory, which is there.
func New(opts Options) *Layers { return &Layers{opts: opts} }

func (l *Layers) dir(id string) string {
	return filepath.Join(l.opts.Dir, strings.TrimPrefix(id, idPrefix))
}

// Complete reports whether all of a layer is there.
func (l *Layers) Complete(id string) bool {
	_, err := os.Lstat(l.mark(id))
	return err == nil
}

// All lists the ids of the layers that are there, complete or not.
func (l *Layers) All() (ids []string) {
	entries, _ := os.ReadDir(l.opts.Dir)
	for _, e := range entries {
		ids = append(ids, idPrefix+e.Name())
	}
	return ids
}
