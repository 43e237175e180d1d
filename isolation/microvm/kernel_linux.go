package microvm

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// hostKernel is a kernel with its modules.
type hostKernel struct {
	image   string // path of the bzImage or ELF file
	modules string // lib/modules/VERSION
	version string
}

// maxKernel bounds an uncompressed kernel, in bytes.
const maxKernel = 512 << 20

// findKernel returns the kernel that guests boot.
func findKernel(kernel, dir string) (hostKernel, error) {
	if kernel != "auto" {
		version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
		version = strings.TrimPrefix(version, "vmlinux-")
		return hostKernel{kernel, modulesDir(dir, version), version}, nil
	}
	found, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return hostKernel{}, err
	}
	var all []hostKernel
	for _, image := range found {
		version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		modules := modulesDir(dir, version)
		if _, err := os.Stat(modules); err == nil {
			all = append(all, hostKernel{image, modules, version})
		}
	}
	if len(all) == 0 {
		return hostKernel{}, fault.WithRemedy(
			fault.Adminf("no kernel with modules in %s: %w", filepath.Join(dir, "boot"), isolation.ErrUnsupported),
			"install the package linux-image-cloud-amd64, or set kernel to the path of one")
	}
	return slices.MaxFunc(all, compareKernels), nil
}

// modulesDir is where a version's modules are; with merged /usr, lib is a link to usr/lib, which an extracted package
// may lack.
func modulesDir(dir, version string) string {
	modules := filepath.Join(dir, "lib/modules", version)
	if _, err := os.Stat(modules); err != nil {
		return filepath.Join(dir, "usr/lib/modules", version)
	}
	return modules
}

// compareKernels orders kernels made for virtual machines last, then by version.
func compareKernels(a, b hostKernel) int {
	cloud := func(k hostKernel) int {
		if strings.Contains(k.version, "cloud") || strings.Contains(k.version, "kvm") || strings.Contains(k.version, "virtual") {
			return 1
		}
		return 0
	}
	if c := cloud(a) - cloud(b); c != 0 {
		return c
	}
	return slices.Compare(numbers(a.version), numbers(b.version))
}

var digits = regexp.MustCompile(`\d+`)

// numbers are the numbers of a version, most significant first.
func numbers(version string) []int {
	var all []int
	for _, text := range digits.FindAllString(version, -1) {
		n, err := strconv.Atoi(text)
		if err != nil {
			n = 0 // longer than any version's
		}
		all = append(all, n)
	}
	return all
}

// uncompressed returns the kernel's ELF file: QEMU starts it without running the decompressor in the guest, which under
// emulation takes longer than all the rest.
func (k hostKernel) uncompressed() ([]byte, error) {
	image, err := os.ReadFile(k.image)
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("reading the guests' kernel: %w", err), "set kernel to the path of one")
	}
	if !bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
		if image, err = payload(image); err != nil {
			return nil, fault.Adminf("the kernel %s: %w", k.image, err)
		}
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil || file.Machine != elf.EM_X86_64 {
		return nil, fault.Adminf("the kernel %s is not for x86-64: %w", k.image, errors.Join(err, isolation.ErrUnsupported))
	}
	return image, nil
}

// payload extracts what a bzImage decompresses: see the kernel's Documentation/arch/x86/boot.rst.
func payload(image []byte) ([]byte, error) {
	const setupSectors, magic, payloadOffset, payloadLength, sector = 0x1f1, 0x202, 0x248, 0x24c, 512
	if len(image) < payloadLength+4 || string(image[magic:magic+4]) != "HdrS" {
		return nil, errors.New("neither a bzImage nor an ELF file")
	}
	start := (int64(image[setupSectors])+1)*sector + int64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if end > int64(len(image)) || start > end-8 {
		return nil, errors.New("a bzImage that is cut short")
	}
	compressed := image[start:end]
	reader, err := decompressor(compressed)
	if err != nil {
		return nil, err
	}
	size := int64(binary.LittleEndian.Uint32(compressed[len(compressed)-4:])) // the kernel's build appends it
	if size > maxKernel {
		return nil, fmt.Errorf("it claims %d bytes uncompressed", size)
	}
	plain := make([]byte, size)
	if _, err := io.ReadFull(reader, plain); err != nil {
		return nil, fmt.Errorf("decompressing it: %w", err)
	}
	return plain, nil
}

// decompressor knows kernels and modules by their first bytes.
func decompressor(data []byte) (io.Reader, error) {
	source := bytes.NewReader(data)
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		return gzip.NewReader(source)
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(source)
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(source, zstd.WithDecoderConcurrency(1))
	case bytes.HasPrefix(data, []byte{0x02, 0x21, 0x4c, 0x18}):
		return lz4.NewReader(source), nil
	case bytes.HasPrefix(data, []byte{0x5d, 0, 0}):
		return lzma.NewReader(source)
	case bytes.HasPrefix(data, []byte("BZh")):
		return bzip2.NewReader(source), nil
	default:
		return nil, fmt.Errorf("compressed in an unknown way, its first bytes are % x", data[:min(4, len(data))])
	}
}

// store writes content to dir under a name made of its hash, unless it is there, and returns the name.
func store(dir, prefix string, content []byte) (string, error) {
	sum := sha256.Sum256(content)
	name := storedName(prefix, sum[:])
	path := filepath.Join(dir, name)
	if isWhole(path) {
		touch(path)
		return name, nil
	}
	temporary, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return "", err
	}
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Chmod(0o444), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(temporary.Name()))
	}
	return name, removeUnused(filepath.Join(dir, prefix+"-*"))
}

func storedName(prefix string, sum []byte) string { return prefix + "-" + hex.EncodeToString(sum[:16]) }

// isWhole reports whether a stored file holds what its name says: nothing is synced to disk, so a crash of the host may
// have cut it short.
func isWhole(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return false
	}
	prefix, _, _ := strings.Cut(filepath.Base(path), "-")
	return filepath.Base(path) == storedName(prefix, hash.Sum(nil))
}
