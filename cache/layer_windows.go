package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Microsoft/hcsshim"
	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// parallelLayers is 1: a layer is imported upon those below it.
const parallelLayers = 1

// platformState tells which layer directories are being written, so that nobody removes them.
type platformState struct {
	writingLock sync.Mutex
	writing     map[string]bool // by id
}

// layerRoot is what of a layer is handed out: its directory itself, whose name is its identity. completeMark is
// written last.
func layerRoot(dir, id string) string    { return layerDir(dir, id) }
func completeMark(dir, id string) string { return filepath.Join(layerDir(dir, id), completeName) }

// completeName is the mark's name beside what the importer writes.
const completeName = "complete"

// checkFileSystem refuses ReFS: the compute service cannot make layers there (moby and containerd refuse it, too).
func checkFileSystem(dir string) error {
	root := filepath.VolumeName(dir) + `\`
	path, err := windows.UTF16PtrFromString(root)
	if err != nil {
		return fault.Adminf("looking at the volume of %s: %w", dir, err)
	}
	var name [windows.MAX_PATH + 1]uint16
	if err := windows.GetVolumeInformation(path, nil, 0, nil, nil, nil, &name[0], uint32(len(name))); err != nil {
		return fault.Adminf("looking at the volume of %s: %w", dir, err)
	}
	if system := windows.UTF16ToString(name[:]); strings.EqualFold(system, "ReFS") {
		return fault.WithRemedy(fault.Adminf("%s is on ReFS, which cannot hold layers of Windows images", dir),
			"set state_dir to a directory on NTFS")
	}
	return nil
}

// storeLayer imports a layer in the directory that it will stay in, as it must never be renamed, and marks it complete
// at the end. Without the mark it does not count, and is destroyed at the next start.
func (c *Cache) storeLayer(ctx context.Context, p *pull, l wantedLayer, left *budget) (stored storedLayer, err error) {
	dir := layerDir(c.opts.Dir, l.id)
	if err := c.beginWriting(l.id); err != nil {
		return stored, fault.Systemf("storing layer %s: %w", l.diffID, err)
	}
	defer c.endWriting(l.id)
	defer func() {
		if err != nil {
			err = errors.Join(err, removeLayer(dir))
		}
	}()
	var below []string // upper-most first, whatever the comment of ImportLayerFromTar says
	for _, id := range slices.Backward(l.below) {
		below = append(below, layerDir(c.opts.Dir, id))
	}
	err = readLayer(ctx, p, l, left, func(content io.Reader) (err error) {
		checked := newGuard(content, left)
		stored.use.Bytes, err = c.runImporter(ctx, checked, dir, below)
		if checked.err != nil && !errors.Is(checked.err, io.EOF) {
			return checked.err // the importer only saw its input end
		}
		return err
	})
	if err != nil {
		return stored, fmt.Errorf("layer %s: %w", l.diffID, err)
	}
	if err := failpoint.Hit("cache-unpacked"); err != nil {
		return stored, err
	}
	if err := writeMark(completeMark(c.opts.Dir, l.id)); err != nil {
		return stored, fault.Systemf("storing layer %s: %w", l.diffID, err)
	}
	return stored, nil
}

// runImporter imports in a process of its own: it alone has the privileges to write any owner and any access list, and
// what hcsshim leaves open goes with it. Its temporary files lie where the next start empties.
func (c *Cache) runImporter(ctx context.Context, content io.Reader, dir string, below []string) (int64, error) {
	temp, err := os.MkdirTemp(filepath.Join(c.opts.Dir, "ingest"), "hcs")
	if err != nil {
		return 0, fault.Systemf("importing: %w", err)
	}
	defer c.discard(temp)
	if len(c.opts.Importer) == 0 {
		return 0, fault.Systemf("there is no program that imports layers")
	}
	args := append(slices.Clone(c.opts.Importer[1:]), dir)
	cmd := exec.CommandContext(ctx, c.opts.Importer[0], append(args, below...)...)
	cmd.Env = []string{"TEMP=" + temp, "TMP=" + temp, "SystemRoot=" + os.Getenv("SystemRoot"), "PATH=" + os.Getenv("PATH")}
	if points := os.Getenv(failpoint.Variable); points != "" {
		cmd.Env = append(cmd.Env, failpoint.Variable+"="+points)
	}
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = content, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return 0, fault.Systemf("interrupted: %w", context.Cause(ctx))
		}
		err = fmt.Errorf("importing: %w: %s", err, printable(strings.TrimSpace(stderr.String()), 500))
		if strings.TrimSpace(stdout.String()) == brokenAnswer {
			return 0, err // the author's, unless the digests say that another tar came
		}
		return 0, fault.Systemf("%w", err)
	}
	size, err := strconv.ParseInt(strings.TrimSpace(stdout.String()), 10, 64)
	if err != nil {
		return 0, fault.Systemf("the program that imports layers said %q: %w", printable(stdout.String(), 100), err)
	}
	return size, nil
}

// writeMark makes a file that lasts.
func writeMark(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// beginWriting takes a layer's directory, empty.
func (c *Cache) beginWriting(id string) error {
	c.writingLock.Lock()
	if c.writing == nil {
		c.writing = map[string]bool{}
	}
	c.writing[id] = true
	c.writingLock.Unlock() // what removes a discarded layer sees the mark; other layers need not wait
	dir := layerDir(c.opts.Dir, id)
	if _, err := os.Lstat(dir); err == nil {
		c.endTemplates(id)
	}
	if err := removeLayer(dir); err != nil {
		c.endWriting(id)
		return err
	}
	return nil
}

func (c *Cache) endWriting(id string) {
	c.writingLock.Lock()
	defer c.writingLock.Unlock()
	delete(c.writing, id)
}

// discardLayer makes a layer vanish and destroys it in the background. Nothing here waits: what holds the layer, a
// template machine that the compute service keeps, is ended in the background first. What cannot be moved even then
// has lost its mark, and goes at the next start.
func (c *Cache) discardLayer(id string) {
	dir := layerDir(c.opts.Dir, id)
	if err := os.Remove(completeMark(c.opts.Dir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Error().Err(err).Str("layer", id).Msg("a layer cannot be unmarked")
	}
	c.background.Go(func() {
		c.endTemplates(id)
		c.writingLock.Lock()
		defer c.writingLock.Unlock()
		if c.writing[id] {
			return // it is being imported again, which removes what is left
		}
		if _, err := os.Stat(completeMark(c.opts.Dir, id)); err == nil {
			return // and has been
		}
		gone, err := c.moveToTrash(dir)
		if err != nil {
			c.log.Error().Err(err).Str("layer", id).Msg("a layer cannot be discarded; the next start tries again")
			return
		}
		if gone != "" {
			c.deleteLater(gone)
		}
	})
}

// endTemplates ends the machines from which the compute service clones Hyper-V containers of this layer: they keep it
// in use long after the last container. A service that does not answer is waited for twice as long as for one machine.
func (c *Cache) endTemplates(id string) {
	ended := make(chan error, 1)
	go func() { ended <- endTemplatesOf(layerDir(c.opts.Dir, id)) }()
	var err error
	select {
	case err = <-ended:
	case <-time.After(2 * templateTimeout):
		err = errors.New("the compute service does not answer")
	}
	if err != nil {
		c.log.Warn().Err(err).Str("layer", id).Msg("ending the machines that the compute service cloned from a layer")
	}
}

func endTemplatesOf(layer string) error {
	systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range systems {
		if !s.IsRuntimeTemplate || !within(layer, s.RuntimeImagePath) {
			continue
		}
		template, err := hcsshim.OpenContainer(s.ID)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := template.Terminate(); hcsshim.IsPending(err) {
			err = template.WaitTimeout(templateTimeout)
			if err != nil {
				errs = append(errs, err)
			}
		} else if err != nil && !hcsshim.IsAlreadyStopped(err) {
			errs = append(errs, err)
		}
		errs = append(errs, template.Close())
	}
	return errors.Join(errs...)
}

// within says whether path lies in dir, whatever the case of its letters.
func within(dir, path string) bool {
	dir, path = strings.ToLower(filepath.Clean(dir)), strings.ToLower(filepath.Clean(path))
	return path == dir || strings.HasPrefix(path, dir+`\`)
}

// removeLayer destroys a layer's directory, if there is one, with what belongs to the system's own users.
func removeLayer(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return hcsshim.DestroyLayer(hcsshim.DriverInfo{HomeDir: filepath.Dir(dir), Flavour: 1}, filepath.Base(dir))
}

// deleteAll deletes what is in the trash: layers by the compute service, which alone may delete all that is in them.
func deleteAll(path string) error {
	layer := filepath.Join(path, "it")
	for _, part := range []string{"Files", "UtilityVM", "Hives"} { // an import makes them in no order of ours
		if _, err := os.Lstat(filepath.Join(layer, part)); err == nil {
			if err := removeLayer(layer); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(path)
}
