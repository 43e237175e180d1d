package hcssim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// template is what prefixes are made of: a prefix as Wine makes it, and what is compiled here.
type template struct {
	wine string // a prefix
	dlls string // a directory to lay over its C:
}

// templates returns them. They are made once per machine and version of Wine, which takes ten seconds.
func templates(ctx context.Context) (template, error) {
	dlls, err := compiled(ctx)
	if err != nil {
		return template{}, err
	}
	wine, err := version(ctx, loader)
	if err != nil {
		return template{}, err
	}
	name := fmt.Sprintf("hcssim-wine-%.16x", sha256.Sum256(wine))
	prefix, err := gitlabtest.Cached(ctx, name, func(ctx context.Context, path string) error {
		os.RemoveAll(path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		command := exec.CommandContext(ctx, loader, "wineboot", "--init")
		command.Env = environment(path)
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("making a Wine prefix: %w\n%s", err, out)
		}
		wait := exec.CommandContext(ctx, server, "-w")
		wait.Env = environment(path)
		return wait.Run()
	})
	return template{prefix, dlls}, err
}

// prefix is a Wine prefix: the machine of the clients, or the inside of one container.
type prefix struct {
	dir   string
	drive string // its C:

	mu   sync.Mutex
	held map[string]bool
}

// clonePrefix makes a prefix of a template, for a build.
func clonePrefix(from template, dir string, build int) (*prefix, error) {
	p := &prefix{dir: dir, drive: filepath.Join(dir, "drive_c"), held: map[string]bool{}}
	if err := copyTree(filepath.Join(from.wine, "drive_c"), p.drive); err != nil {
		return nil, err
	}
	if err := copyTree(from.dlls, p.drive); err != nil {
		return nil, err
	}
	return p, p.provision(from, build, p.drive)
}

// provision gives a prefix what is beside its C:.
func (p *prefix) provision(from template, build int, drive string) error {
	if err := os.MkdirAll(filepath.Join(p.dir, "dosdevices"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(drive, filepath.Join(p.dir, "dosdevices", "c:")); err != nil {
		return err
	}
	for _, name := range []string{"user.reg", "userdef.reg", ".update-timestamp"} {
		if err := copyFile(filepath.Join(from.wine, name), filepath.Join(p.dir, name)); err != nil {
			return err
		}
	}
	registry, err := os.ReadFile(filepath.Join(from.wine, "system.reg"))
	if err != nil {
		return err
	}
	text, err := setBuild(string(registry), build)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.dir, "system.reg"), []byte(text), 0o644)
}

// setBuild sets the version of Windows in the text of a registry.
func setBuild(registry string, build int) (string, error) {
	const section = `[Software\\Microsoft\\Windows NT\\CurrentVersion]`
	start := strings.Index(registry, section+" ")
	if start < 0 {
		return "", errors.New("the registry has no version of Windows")
	}
	head, rest := registry[:start], registry[start:]
	end := strings.Index(rest, "\n\n")
	body, tail := rest[:end], rest[end:]
	body = regexp.MustCompile(`(?m)^"(CSDVersion|CurrentBuild|CurrentBuildNumber|CurrentVersion|CurrentM\w+VersionNumber|ProductName|InstallationType)"=.*\n`).
		ReplaceAllString(body, "")
	body += fmt.Sprintf("\n\"CurrentBuild\"=\"%d\"\n\"CurrentBuildNumber\"=\"%[1]d\"\n\"CurrentVersion\"=\"10.0\"\n"+
		"\"CurrentMajorVersionNumber\"=dword:0000000a\n\"CurrentMinorVersionNumber\"=dword:00000000\n"+
		"\"ProductName\"=\"Windows Server (hcssim)\"\n\"InstallationType\"=\"Server Core\"", build)
	return head + body + tail, nil
}

// introduce tells the DLLs of a client's prefix where the broker is, and lets its programs reach this host's files as Z:.
func (p *prefix) introduce(b *broker, withService bool) error {
	if err := os.Symlink("/", filepath.Join(p.dir, "dosdevices", "z:")); err != nil {
		return err
	}
	system := filepath.Join(p.drive, "windows", "system32")
	if !withService {
		for _, name := range serviceDLLs() {
			os.Remove(filepath.Join(system, name))
		}
	}
	return os.WriteFile(filepath.Join(system, "hcssim.broker"), fmt.Appendf(nil, "%d %s", b.port(), b.secret), 0o600)
}

// stop ends all processes of the prefix, and gives back what it holds.
func (p *prefix) stop() error {
	err := endWine(p.dir)
	p.mu.Lock()
	defer p.mu.Unlock()
	for dir := range p.held {
		setAttributes(dir, false)
	}
	return err
}

// Path is service.Disk's.
func (p *prefix) Path(windows string) (string, error) {
	rest := strings.ReplaceAll(strings.TrimPrefix(windows, `\\?\`), "/", `\`)
	if len(rest) < 3 || !strings.EqualFold(rest[:3], `C:\`) {
		return "", errors.New(`it is not below C:\`)
	}
	at := p.drive
	for _, element := range strings.Split(rest[3:], `\`) {
		switch element {
		case "":
		case ".", "..":
			return "", errors.New("it is no plain path")
		default:
			at = service.Fold(at, element)
		}
	}
	for existing := at; ; existing = filepath.Dir(existing) {
		real, err := filepath.EvalSymlinks(existing)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || real != p.drive && !strings.HasPrefix(real, p.drive+"/") {
			return "", fmt.Errorf("it leads to %s (%w)", real, errors.Join(err, errors.ErrUnsupported))
		}
		return at, nil
	}
}

// Publish is service.Disk's. Wine finds what follows \\?\ among the names in dosdevices.
func (p *prefix) Publish(volume service.GUID, dir string) error {
	link := p.volumeLink(volume)
	os.Remove(link)
	return os.Symlink(dir, link)
}

// Withdraw is service.Disk's.
func (p *prefix) Withdraw(volume service.GUID) { os.Remove(p.volumeLink(volume)) }

func (p *prefix) volumeLink(volume service.GUID) string {
	return filepath.Join(p.dir, "dosdevices", strings.ToLower("volume{"+volume.String()+"}"))
}

// Hold is service.Disk's. An append-only directory takes new files, but nobody renames or removes it. Where that is not
// to be had, without root, the service finds out later that the folder has moved.
func (p *prefix) Hold(dir string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[dir] = true
	setAttributes(dir, true)
}

// Release is service.Disk's.
func (p *prefix) Release(dir string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, dir)
	setAttributes(dir, false)
}

// appendOnlyFlag is FS_APPEND_FL of linux/fs.h.
const appendOnlyFlag = 0x20

func setAttributes(dir string, appendOnly bool) {
	file, err := os.Open(dir)
	if err != nil {
		return
	}
	defer file.Close()
	flags, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	flags &^= appendOnlyFlag
	if appendOnly {
		flags |= appendOnlyFlag
	}
	unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

// leaks lists the temporary folders of imports that were not removed, where hcsshim makes them unless it is told another
// place: an import that was ended half-way never called the service. Source: hcsshim internal/wclayer/importlayer.go.
func (p *prefix) leaks() []string {
	var all []string
	found, _ := filepath.Glob(filepath.Join(p.drive, "users", "*", "Temp", "hcs*"))
	for _, path := range found {
		all = append(all, "temporary folder "+strings.TrimPrefix(path, p.drive))
	}
	return all
}

// copyTree copies a tree. The big files, which nobody writes, become hard links.
func copyTree(from, to string) error {
	return service.CopyTree(from, to, func(path, target string, entry fs.DirEntry) error {
		if entry.Type()&fs.ModeSymlink != 0 {
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		os.Remove(target) // one of Wine's own
		if info, err := entry.Info(); err == nil && info.Size() > 16<<10 && os.Link(path, target) == nil {
			return nil
		}
		return copyFile(path, target)
	})
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
