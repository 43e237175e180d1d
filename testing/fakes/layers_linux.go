package fakes

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// Layers keeps images of registries in plain directories, one operation at a time:
//
//	lock          held by its only user
//	images/NAME   what is known of an image, in JSON; the file's time is the image's last use
//	layers/HEX    a layer, unpacked: directories, files and symbolic links, all root's
//	scratches/ID  a scratch, of no limited size
//	volumes/SCOPE a cache volume
type Layers struct {
	dir   string
	limit int64
	lock  *os.File

	mu     sync.Mutex
	leases map[string][]string // by holder
}

// kept is what is known of an image.
type kept struct {
	Digest string
	Layers []string // upper-most first
	Config isolation.ImageConfig
}

// OpenLayers opens what is kept in dir and removes what an earlier process left half-made. limit is that of
// Collect, in bytes.
func OpenLayers(dir string, limit int64) (*Layers, error) {
	for _, sub := range []string{"images", "layers", "scratches", "volumes"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fault.Adminf("another process uses %s: %w", dir, err), lock.Close())
	}
	l := &Layers{dir: dir, limit: limit, lock: lock, leases: map[string][]string{}}
	_, err = l.sweep()
	return l, err
}

// Close lets others use the directory.
func (l *Layers) Close() error { return l.lock.Close() }

func (l *Layers) path(elements ...string) string {
	return filepath.Join(append([]string{l.dir}, elements...)...)
}

// Base implements jobs.Layers.
func (l *Layers) Base(ctx context.Context, req jobs.BaseRequest, log *joblog.Log) (jobs.Base, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	image, found := l.image(req.Image)
	base := jobs.Base{Image: req.Image}
	switch {
	case found && req.PullPolicy != "always":
	case req.PullPolicy == "never":
		return base, fault.Authorf("the image %s is not kept here, and may not be pulled", req.Image)
	default:
		var err error
		if image, base.Bytes, err = l.pull(ctx, req.Image); err != nil {
			return base, fault.Authorf("pulling %s: %w", req.Image, err)
		}
		if base.Pulled = base.Bytes > 0; base.Pulled {
			log.Progress("Pulled %s", req.Image)
		}
	}
	l.leases[req.Holder] = append(l.leases[req.Holder], req.Image)
	base.Digest, base.Root.Config = image.Digest, image.Config
	for _, layer := range image.Layers {
		base.Root.Layers = append(base.Root.Layers, l.path("layers", layer))
	}
	return base, l.touch(req.Image)
}

func (l *Layers) image(name string) (image kept, found bool) {
	text, err := os.ReadFile(l.path("images", url.PathEscape(name)))
	return image, err == nil && json.Unmarshal(text, &image) == nil
}

func (l *Layers) touch(name string) error {
	now := time.Now()
	return os.Chtimes(l.path("images", url.PathEscape(name)), now, now)
}

// pull keeps an image and returns how many bytes that took.
func (l *Layers) pull(ctx context.Context, reference string) (image kept, transferred int64, err error) {
	parsed, err := name.ParseReference(reference)
	if err != nil {
		return image, 0, err
	}
	source, err := remote.Image(parsed, remote.WithContext(ctx))
	if err != nil {
		return image, 0, err
	}
	digest, err := source.Digest()
	if err != nil {
		return image, 0, err
	}
	config, err := source.ConfigFile()
	if err != nil {
		return image, 0, err
	}
	image = kept{Digest: digest.String(), Config: isolation.ImageConfig{
		Env: config.Config.Env, User: config.Config.User, WorkingDir: config.Config.WorkingDir,
	}}
	layers, err := source.Layers()
	if err != nil {
		return image, 0, err
	}
	for _, layer := range slices.Backward(layers) {
		id, size, err := l.keep(layer)
		if err != nil {
			return image, 0, err
		}
		image.Layers = append(image.Layers, id)
		transferred += size
	}
	text, err := json.Marshal(image)
	if err != nil {
		return image, 0, err
	}
	partial := l.path("partial")
	if err := os.WriteFile(partial, text, 0o600); err != nil {
		return image, 0, err
	}
	return image, transferred, os.Rename(partial, l.path("images", url.PathEscape(reference)))
}

// keep unpacks a layer that is not there yet.
func (l *Layers) keep(layer v1.Layer) (id string, transferred int64, err error) {
	digest, err := layer.Digest()
	if err != nil {
		return "", 0, err
	}
	final, partial := l.path("layers", digest.Hex), l.path("layers", digest.Hex+".partial")
	if _, err := os.Stat(final); err == nil {
		return digest.Hex, 0, nil
	}
	content, err := layer.Uncompressed()
	if err != nil {
		return "", 0, err
	}
	defer content.Close()
	if transferred, err = layer.Size(); err != nil {
		return "", 0, err
	}
	if err := errors.Join(os.RemoveAll(partial), unpack(tar.NewReader(content), partial)); err != nil {
		return "", 0, err
	}
	return digest.Hex, transferred, os.Rename(partial, final)
}

// unpack makes a directory of a layer, as overlayfs wants it: what the layer removes is a device 0:0.
func unpack(archive *tar.Reader, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = unpackEntry(root, dir, header, archive)
		}
		if err != nil {
			return err
		}
	}
}

func unpackEntry(root *os.Root, dir string, header *tar.Header, content io.Reader) error {
	path := filepath.Clean(header.Name)
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if removed, ok := strings.CutPrefix(filepath.Base(path), ".wh."); ok {
		return unix.Mknod(filepath.Join(dir, filepath.Dir(path), removed), unix.S_IFCHR, 0)
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(path, header.FileInfo().Mode().Perm())
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, path)
	case tar.TypeReg:
		file, err := root.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, header.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		return errors.Join(err, file.Close())
	default:
		return fmt.Errorf("%s: a kind of file (%q) that this fake does not know", header.Name, header.Typeflag)
	}
}

// Release implements jobs.Layers. The end of a lease is a use.
func (l *Layers) Release(holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, image := range l.leases[holder] {
		_ = l.touch(image) // it is kept: it was leased
	}
	delete(l.leases, holder)
}

func (l *Layers) leased(image string) bool {
	for _, images := range l.leases {
		if slices.Contains(images, image) {
			return true
		}
	}
	return false
}

// Images is how many images are kept.
func (l *Layers) Images(context.Context) (int, error) {
	entries, err := os.ReadDir(l.path("images"))
	return len(entries), err
}

// Remove removes an image that nobody leases and returns the bytes that this freed.
func (l *Layers) Remove(_ context.Context, image string) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, found := l.image(image); !found {
		return 0, fault.Adminf("the image %s is not kept here", image)
	}
	if l.leased(image) {
		return 0, fault.Adminf("the image %s is in use", image)
	}
	if err := os.Remove(l.path("images", url.PathEscape(image))); err != nil {
		return 0, err
	}
	return l.sweep()
}

// Collect removes images, the least recently used first, until the layers are within the limit.
func (l *Layers) Collect(ctx context.Context) (freed int64, err error) {
	entries, err := os.ReadDir(l.path("images"))
	if err != nil || l.limit == 0 {
		return 0, err
	}
	used := func(entry fs.DirEntry) time.Time {
		info, err := entry.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return used(a).Compare(used(b)) })
	for _, entry := range entries {
		if l.Used() <= l.limit {
			break
		}
		image, err := url.PathUnescape(entry.Name())
		if err != nil {
			return freed, err
		}
		if n, err := l.Remove(ctx, image); err == nil { // else it is leased
			freed += n
		}
	}
	return freed, nil
}

// Used is what all layers take together, in bytes.
func (l *Layers) Used() int64 { return sizeOf(l.path("layers")) }

func sizeOf(dir string) (size int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil // what vanishes meanwhile takes nothing
	})
	return size
}

// sweep removes the layers that no image has, half-made ones too, and returns their bytes.
func (l *Layers) sweep() (freed int64, err error) {
	needed := map[string]bool{}
	images, err := os.ReadDir(l.path("images"))
	if err != nil {
		return 0, err
	}
	for _, entry := range images {
		name, err := url.PathUnescape(entry.Name())
		if err != nil {
			return 0, err
		}
		image, _ := l.image(name)
		for _, layer := range image.Layers {
			needed[layer] = true
		}
	}
	layers, err := os.ReadDir(l.path("layers"))
	if err != nil {
		return 0, err
	}
	for _, entry := range layers {
		if dir := l.path("layers", entry.Name()); !needed[entry.Name()] {
			freed += sizeOf(dir)
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return freed, err
}

// NewScratch implements jobs.Layers; Size is not enforced.
func (l *Layers) NewScratch(_ context.Context, req jobs.ScratchRequest) (jobs.Scratch, error) {
	if !isolation.ValidID(req.ID) {
		return jobs.Scratch{}, fmt.Errorf("%q is no sandbox id", req.ID)
	}
	dir := l.path("scratches", req.ID)
	return jobs.Scratch{Dir: dir}, mkdir(dir, 0o755)
}

// DestroyScratch implements jobs.Layers.
func (l *Layers) DestroyScratch(_ context.Context, id string) error {
	if !isolation.ValidID(id) {
		return fmt.Errorf("%q is no sandbox id", id)
	}
	return os.RemoveAll(l.path("scratches", id))
}

// ScratchUsed implements jobs.Layers: the sum of the files' sizes.
func (l *Layers) ScratchUsed(_ context.Context, id string) (used int64, err error) {
	err = filepath.WalkDir(l.path("scratches", id), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			used += info.Size()
		}
		return err
	})
	return used, err
}

// Scratches implements jobs.Layers.
func (l *Layers) Scratches(context.Context) (ids []string, err error) {
	entries, err := os.ReadDir(l.path("scratches"))
	for _, entry := range entries {
		ids = append(ids, entry.Name())
	}
	return ids, err
}

// CacheVolume implements jobs.Layers.
func (l *Layers) CacheVolume(_ context.Context, scope string) (string, error) {
	dir := l.path("volumes", url.PathEscape(scope))
	if err := mkdir(dir, 0o777); err != nil && !errors.Is(err, syscall.EEXIST) {
		return "", err
	}
	return dir, nil
}
