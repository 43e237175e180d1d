package microvm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// boot is what guests boot: names of files in the directory that QEMU sees.
type boot struct {
	Kernel    string `json:"kernel"`
	Initramfs string `json:"initramfs"`
	// Version is the kernel's, for people.
	Version string `json:"version"`
	tscKHz  int64  // see tscKHz
}

// prepareBoot makes kernel and initramfs, or finds them made.
func prepareBoot(options Options, dir string) (*boot, error) {
	kernel, err := findKernel(options.Kernel, options.KernelDir)
	if err != nil {
		return nil, err
	}
	filter, err := newFilter()
	if err != nil {
		return nil, err
	}
	index, err := kernel.index(options.AgentPath, filter)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, index)
	b := recallBoot(path)
	if b == nil {
		if b, err = makeBoot(kernel, options.AgentPath, filter, dir); err != nil {
			return nil, err
		}
		content, err := json.Marshal(b)
		if err == nil {
			err = errors.Join(os.WriteFile(path, content, 0o444), removeUnused(filepath.Join(dir, indexPrefix+"*")))
		}
		if err != nil {
			return nil, fmt.Errorf("remembering the guests' kernel: %w", err)
		}
	}
	touch(path, filepath.Join(dir, b.Kernel), filepath.Join(dir, b.Initramfs))
	b.tscKHz = tscKHz()
	return b, nil
}

const indexPrefix = "index-"

// index names the file that remembers what was made of a kernel, its modules, an agent and a filter: to decompress a kernel takes
// a second and 200 MiB.
func (k hostKernel) index(agentPath string, filter []byte) (string, error) {
	hash := sha256.New()
	for _, path := range []string{k.image, filepath.Join(k.modules, "modules.builtin"), agentPath} {
		mark, err := fingerprint(path)
		if err != nil {
			return "", fault.WithRemedy(fault.Adminf("the guests' kernel %s: %w", k.version, err), "install a kernel with its modules, or name another")
		}
		fmt.Fprintln(hash, mark)
	}
	fmt.Fprintln(hash, neededModules)
	hash.Write(filter)
	return indexPrefix + hex.EncodeToString(hash.Sum(nil)[:16]), nil
}

// recallBoot returns what was made before, if it is still whole, else nil.
func recallBoot(path string) *boot {
	var b boot
	content, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(content, &b) != nil {
		return nil
	}
	for _, name := range []string{b.Kernel, b.Initramfs} {
		if !isWhole(filepath.Join(filepath.Dir(path), name)) {
			return nil
		}
	}
	return &b
}

func makeBoot(kernel hostKernel, agentPath string, filter []byte, dir string) (*boot, error) {
	image, err := kernel.uncompressed()
	if err != nil {
		return nil, err
	}
	modules, err := loadOrder(kernel.modules, neededModules)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(agentPath)
	if err != nil {
		return nil, fmt.Errorf("reading the agent: %w", err)
	}
	b := &boot{Version: kernel.version}
	if b.Kernel, err = store(dir, "vmlinux", image); err != nil {
		return nil, fmt.Errorf("keeping the guests' kernel: %w", err)
	}
	if b.Initramfs, err = store(dir, "initramfs", initramfs(program, filter, modules)); err != nil {
		return nil, fmt.Errorf("keeping the guests' initramfs: %w", err)
	}
	debug.FreeOSMemory() // all that was needed but this once
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
