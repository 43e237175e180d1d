package microvm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation/agent"
)

// boot is what guests boot: names of files in the directory that QEMU sees.
type boot struct {
	kernel, initramfs string
	version           string // the kernel's, for people
	tscKHz            int64  // see tscKHz
}

// prepareBoot makes kernel and initramfs, or finds them made.
func prepareBoot(options Options, dir string) (*boot, error) {
	kernel, err := findKernel(options.Kernel, options.KernelDir)
	if err != nil {
		return nil, err
	}
	image, err := kernel.uncompressed()
	if err != nil {
		return nil, err
	}
	modules, err := loadOrder(kernel.modules, neededModules)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(options.AgentPath)
	if err != nil {
		return nil, fmt.Errorf("reading the agent: %w", err)
	}
	filter, err := newFilter()
	if err != nil {
		return nil, err
	}
	b := &boot{version: kernel.version, tscKHz: tscKHz()}
	if b.kernel, err = store(dir, "vmlinux", image); err != nil {
		return nil, fmt.Errorf("keeping the guests' kernel: %w", err)
	}
	if b.initramfs, err = store(dir, "initramfs", initramfs(program, filter, modules)); err != nil {
		return nil, fmt.Errorf("keeping the guests' initramfs: %w", err)
	}
	return b, nil
}

// initramfs returns an archive with the agent as /init, the modules in their order, and what the kernel needs to
// start a program.
func initramfs(program, filter []byte, modules []module) []byte {
	var a archive
	a.add("dev", unix.S_IFDIR|0o755, 0, nil)
	a.add("dev/console", unix.S_IFCHR|0o600, unix.Mkdev(5, 1), nil)
	a.add("dev/null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3), nil) // Go opens it when there is no console yet
	a.add("init", unix.S_IFREG|0o755, 0, program)
	a.add(strings.TrimPrefix(agent.GuestFilter, "/"), unix.S_IFREG|0o644, 0, filter)
	root := strings.TrimPrefix(agent.GuestModules, "/")
	a.add(root, unix.S_IFDIR|0o755, 0, nil)
	for i, m := range modules {
		a.add(filepath.Join(root, fmt.Sprintf("%02d-%s.ko", i, m.name)), unix.S_IFREG|0o644, 0, m.content)
	}
	return a.end()
}

// archive is a cpio archive in the format that the kernel unpacks: its Documentation/driver-api/early-userspace/buffer-format.rst.
type archive struct {
	buffer bytes.Buffer
	inode  int
}

func (a *archive) add(name string, mode uint32, device uint64, content []byte) {
	a.inode++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, major, minor, rmajor, rminor, namesize, check
	fmt.Fprintf(&a.buffer, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", a.inode, mode, 0, 0, 1, 0,
		len(content), 0, 0, unix.Major(device), unix.Minor(device), len(name)+1, 0, name)
	a.pad()
	a.buffer.Write(content)
	a.pad()
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad() {
	for a.buffer.Len()%4 != 0 {
		a.buffer.WriteByte(0)
	}
}

func (a *archive) end() []byte {
	a.add("TRAILER!!!", 0, 0, nil)
	return a.buffer.Bytes()
}
