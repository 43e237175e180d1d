package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Config is the part of an image's configuration that a sandbox needs.
type Config struct {
	// Env are "KEY=value" pairs.
	Env []string `json:"env,omitempty"`
	// User is as the image says it: "", "name", "uid", "name:group", "uid:gid".
	User string `json:"user,omitempty"`
	// WorkingDir is an absolute path or empty.
	WorkingDir string `json:"working_dir,omitempty"`
	// OSVersion is the build of Windows that the image was made for, "10.0.20348.169"; empty for other systems.
	OSVersion string `json:"os_version,omitempty"`
}

// imageRecord is one unpacked image. It is immutable but for Repos.
type imageRecord struct {
	// Digest is the manifest's, "sha256:..."; of images from a docker archive, which has no manifest, the
	// configuration's (what Docker calls the image's id).
	Digest string        `json:"digest"`
	Config Config        `json:"config"`
	Layers []layerRecord `json:"layers"` // lowest first
	// Variant is what the image itself says of the processor that it needs, as in "v3"; mostly nothing.
	Variant string `json:"variant,omitempty"`
	// Created is when the record was made here.
	Created time.Time `json:"created"`
	// Repos are the repositories that delivered it, and whether it is private there. "" stands for the
	// administrator, who is never private.
	Repos map[string]bool `json:"repos"`
	// Format is recordFormat, or that of an earlier version.
	Format int `json:"format"`
	// Omitted is what of the configuration was left out.
	Omitted omitted `json:"omitted,omitempty"`
	// Pinned is what an administrator said about evicting it; nil: nothing. Records of older versions have nothing.
	Pinned *bool `json:"pinned,omitempty"`

	lastUsed time.Time // the file's mtime
	size     int64     // the file's, in bytes
}

type layerRecord struct {
	// DiffID names the layer here: see layerIDs.
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"` // bytes of allocated blocks
	// Inodes is 0 in records of older versions, whose Size is that of the files' contents, and on Windows.
	Inodes  int64   `json:"inodes,omitempty"`
	Omitted omitted `json:"omitted,omitempty"`
}

func (l *layerRecord) is(stored storedLayer) {
	l.Size, l.Inodes, l.Omitted = stored.use.Bytes, stored.use.Inodes, stored.omitted
}

func (l layerRecord) use() Use { return Use{Bytes: l.Size, Inodes: l.Inodes} }

// refRecord is what a name led to.
type refRecord struct {
	Name string `json:"name"`
	// Resolved is the digest that the registry named: the image's or that of an index with it.
	Resolved string `json:"resolved"`
	Digest   string `json:"digest"` // of the image
	Repo     string `json:"repo"`
	// Variant is the processor for which the image was chosen, as in "v3", where the name leads to several; else empty.
	Variant string `json:"variant,omitempty"`
	// Imported is the digest of the pinned image that an administrator stored under this name before a registry delivered
	// another: the name leads to it again when that one has left the cache. Empty: there is none.
	Imported string `json:"imported,omitempty"`
}

// refUse is what a name's record takes.
var refUse = Use{Bytes: blockSize, Inodes: 1}

// pinned reports whether no pull evicts the image. What an administrator delivered is, unless they said otherwise.
func (i *imageRecord) pinned() bool {
	if i.Pinned != nil {
		return *i.Pinned
	}
	_, delivered := i.Repos[""]
	return delivered
}

// key tells the records of a name apart.
func (r *refRecord) key() string { return refKey(r.Name, r.Variant) }

func refKey(name, variant string) string {
	if variant == "" {
		return name
	}
	return name + "\n" + variant
}

// recordFormat is raised whenever the same image would be unpacked otherwise. Before format 2 a layer was the same
// directory above whichever others.
const recordFormat = 2

// outdated reports whether an image has to be unpacked again. What an administrator imported stays: nobody else has it.
func (i *imageRecord) outdated() bool {
	_, imported := i.Repos[""]
	return i.Format != recordFormat && !imported
}

// warnings says for the job log what of the image a sandbox does not have.
func (i *imageRecord) warnings(asked string) []string {
	var all omitted
	all.addAll(i.Omitted)
	for _, l := range i.Layers {
		all.addAll(l.Omitted)
	}
	return all.warnings(asked)
}

func (i *imageRecord) private() bool {
	for _, private := range i.Repos {
		if !private {
			return false
		}
	}
	return true
}

// use is what an image's layers take.
func (i *imageRecord) use() (sum Use) {
	seen := map[string]bool{}
	for _, l := range i.Layers {
		if !seen[l.DiffID] {
			seen[l.DiffID] = true
			sum = sum.plus(l.use())
		}
	}
	return sum
}

// recordUse is what the record itself takes: a configuration can be large.
func (i *imageRecord) recordUse() Use { return Use{Bytes: blocks(i.size), Inodes: 1} }

var digestPattern = regexp.MustCompile(`^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$`)
var diffIDPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// valid guards against records that another hand changed: their digests become paths.
func (i *imageRecord) valid() bool {
	for _, l := range i.Layers {
		if !diffIDPattern.MatchString(l.DiffID) {
			return false
		}
	}
	return digestPattern.MatchString(i.Digest) && i.Repos != nil
}

// writtenUse is what a record will take.
func writtenUse(record any) Use {
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil { // writing it says so
		return Use{Inodes: 1}
	}
	return Use{Bytes: blocks(int64(len(data))), Inodes: 1}
}

// writeRecord writes a record so that a reader, or a later start, sees all of it or nothing, and returns its size.
func writeRecord(path string, record any) (size int64, err error) {
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return 0, fmt.Errorf("writing %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return 0, fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	return int64(len(data)), nil
}

func readRecord(path string, record any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a record: %w", err)
	}
	if err := json.Unmarshal(data, record); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}
