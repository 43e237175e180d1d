package layer

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

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Parallel is 1: a layer is imported upon those below it.
const Parallel = 1

// platformState tells which layer directories are being written, so that nobody removes them.
type platformState struct {
	writingLock sync.Mutex
	writing     map[string]bool // by id
}

// Root is what of a layer is handed out: its directory itself, whose name is its identity.
func (l *Layers) Root(id string) string { return l.dir(id) }

// mark is written last.
func (l *Layers) mark(id string) string { return filepath.Join(l.dir(id), completeName) }

// completeName is the mark's name beside what the importer writes.
const completeName = "complete"

// CheckFileSystem refuses ReFS: the compute service cannot make layers there (moby and containerd refuse it, too).
func CheckFileSystem(dir string) error {
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

// Store imports a layer in the directory that it will stay in, as it must never be renamed, and marks it complete
// at the end. Without the mark it does not count, and is destroyed at the next start.
func (l *Layers) Store(ctx context.Context, wanted Wanted, left *space.Budget) (stored Stored, err error) {
	dir := l.dir(wanted.ID)
	if err := l.beginWriting(wanted.ID); err != nil {
		return stored, fault.Systemf("storing layer %s: %w", wanted.DiffID, err)
	}
	defer l.endWriting(wanted.ID)
	defer func() {
		if err != nil {
			err = errors.Join(err, removeLayer(dir))
		}
	}()
	var below []string // upper-most first, whatever the comment of ImportLayerFromTar says
	for _, id := range slices.Backward(wanted.Below) {
		below = append(below, l.dir(id))
	}
	err = Read(ctx, wanted, left, func(content io.Reader) (err error) {
		checked := newGuard(content, left)
		stored.Use.Bytes, err = l.runImporter(ctx, checked, dir, below)
		if checked.err != nil && !errors.Is(checked.err, io.EOF) {
			return checked.err // the importer only saw its input end
		}
		return err
	})
	if err != nil {
		return stored, fmt.Errorf("layer %s: %w", wanted.DiffID, err)
	}
	if err := failpoint.Hit("cache-unpacked"); err != nil {
		return stored, err
	}
	if err := writeMark(l.mark(wanted.ID)); err != nil {
		return stored, fault.Systemf("storing layer %s: %w", wanted.DiffID, err)
	}
	return stored, nil
}

// runImporter imports in a process of its own: it alone has the privileges to write any owner and any access list, and
// what hcsshim leaves open goes with it. Its temporary files lie where the next start empties.
func (l *Layers) runImporter(ctx context.Context, content io.Reader, dir string, below []string) (int64, error) {
	temp, err := os.MkdirTemp(l.opts.Ingest, "hcs")
	if err != nil {
		return 0, fault.Systemf("importing: %w", err)
	}
	defer l.opts.Trash.Discard(temp)
	if len(l.opts.Importer) == 0 {
		return 0, fault.Systemf("there is no program that imports layers")
	}
	args := append(slices.Clone(l.opts.Importer[1:]), dir)
	cmd := exec.CommandContext(ctx, l.opts.Importer[0], append(args, below...)...)
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
		err = fmt.Errorf("importing: %w: %s", err, untrusted.Printable(strings.TrimSpace(stderr.String()), 500))
		if strings.TrimSpace(stdout.String()) == brokenAnswer {
			return 0, err // the author's, unless the digests say that another tar came
		}
		return 0, fault.Systemf("%w", err)
	}
	size, err := strconv.ParseInt(strings.TrimSpace(stdout.String()), 10, 64)
	if err != nil {
		return 0, fault.Systemf("the program that imports layers said %q: %w", untrusted.Printable(stdout.String(), 100), err)
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
func (l *Layers) beginWriting(id string) error {
	l.writingLock.Lock()
	if l.writing == nil {
		l.writing = map[string]bool{}
	}
	l.writing[id] = true
	l.writingLock.Unlock() // what removes a discarded layer sees the mark; other layers need not wait
	dir := l.dir(id)
	if _, err := os.Lstat(dir); err == nil {
		l.endTemplates(id)
	}
	if err := removeLayer(dir); err != nil {
		l.endWriting(id)
		return err
	}
	return nil
}

func (l *Layers) endWriting(id string) {
	l.writingLock.Lock()
	defer l.writingLock.Unlock()
	delete(l.writing, id)
}

// Discard makes a layer vanish and destroys it in the background. Nothing here waits: what holds the layer, a
// template machine that the compute service keeps, is ended in the background first. What cannot be moved even then
// has lost its mark, and goes at the next start.
func (l *Layers) Discard(id string) {
	dir := l.dir(id)
	if err := os.Remove(l.mark(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.opts.Log.Error().Err(err).Str("layer", id).Msg("a layer cannot be unmarked")
	}
	l.opts.Background.Go(func() {
		l.endTemplates(id)
		l.writingLock.Lock()
		defer l.writingLock.Unlock()
		if l.writing[id] {
			return // it is being imported again, which removes what is left
		}
		if _, err := os.Stat(l.mark(id)); err == nil {
			return // and has been
		}
		gone, err := l.opts.Trash.Move(dir)
		if err != nil {
			l.opts.Log.Error().Err(err).Str("layer", id).Msg("a layer cannot be discarded; the next start tries again")
			return
		}
		if gone != "" {
			l.opts.Trash.DeleteLater(gone)
		}
	})
}

// endTemplates ends the machines from which the compute service clones Hyper-V containers of this layer: they keep it
// in use long after the last container. A service that does not answer is waited for twice as long as for one machine.
func (l *Layers) endTemplates(id string) {
	ended := make(chan error, 1)
	go func() { ended <- endTemplatesOf(l.dir(id)) }()
	var err error
	select {
	case err = <-ended:
	case <-time.After(2 * templateTimeout):
		err = errors.New("the compute service does not answer")
	}
	if err != nil {
		l.opts.Log.Warn().Err(err).Str("layer", id).Msg("ending the machines that the compute service cloned from a layer")
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

// Delete deletes what is in the trash: layers by the compute service, which alone may delete all that is in them.
func Delete(path string) error {
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

// Measure is not needed: importing a layer tells its size.
func (l *Layers) Measure(context.Context, string) (space.Use, error) {
	return space.Use{}, errors.ErrUnsupported
}

// Sync makes everything last that was written on the layers' volume: it flushes that, which needs an administrator.
func (l *Layers) Sync() error {
	dir := l.opts.Dir
	volume, err := windows.UTF16PtrFromString(`\\.\` + filepath.VolumeName(dir))
	if err != nil {
		return fmt.Errorf("flushing the volume of %s: %w", dir, err)
	}
	handle, err := windows.CreateFile(volume, windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil,
		windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return fmt.Errorf("flushing the volume of %s: %w", dir, err)
	}
	err = windows.FlushFileBuffers(handle)
	if errors.Is(err, windows.ERROR_INVALID_FUNCTION) {
		err = nil // a volume that has no such thing; each mark was flushed by itself
	}
	return errors.Join(err, windows.CloseHandle(handle))
}
