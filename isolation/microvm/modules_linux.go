package microvm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/airlock-ci/airlock/internal/fault"
)

// neededModules are what a guest loads, unless its kernel has them built in.
var neededModules = []string{"virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "ext4", "overlay"}

// module is one kernel module, uncompressed.
type module struct {
	name    string
	content []byte
}

// loadOrder returns the modules with all that they depend on, each after those. Their own sections say what that is: an
// extracted package has no modules.dep, which is made by its post-install.
func loadOrder(dir string, names []string) ([]module, error) {
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("the modules of the guests' kernel: %w", err), "install the kernel with its modules")
	}
	resolver := moduleResolver{files: map[string]string{}, done: map[string]bool{}}
	for line := range strings.Lines(string(builtin)) {
		resolver.done[moduleName(strings.TrimSpace(line))] = true
	}
	err = filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			resolver.files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fault.Adminf("looking for kernel modules: %w", err)
	}
	for _, name := range names {
		if err := resolver.add(name); err != nil {
			return nil, fault.Adminf("the kernel module %s: %w", name, err)
		}
	}
	return resolver.order, nil
}

// moduleName is how dependencies name a module file: without directory and suffixes, "-" as "_".
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

type moduleResolver struct {
	files map[string]string // paths by name
	done  map[string]bool
	order []module
}

func (r *moduleResolver) add(name string) error {
	if r.done[name] {
		return nil
	}
	r.done[name] = true
	path, ok := r.files[name]
	if !ok {
		return errors.New("there is no such file, and it is not built in")
	}
	content, err := readModule(path)
	if err != nil {
		return err
	}
	dependencies, err := moduleDependencies(content)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, dependency := range dependencies {
		if err := r.add(dependency); err != nil {
			return fmt.Errorf("%s, which it needs: %w", dependency, err)
		}
	}
	r.order = append(r.order, module{name, content})
	return nil
}

// readModule reads a module file, compressed or not.
func readModule(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil || bytes.HasPrefix(content, []byte(elf.ELFMAG)) {
		return content, err
	}
	reader, err := decompressor(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return io.ReadAll(reader)
}

// moduleDependencies reads "depends=a,b" from the section .modinfo, whose entries end with NUL.
func moduleDependencies(content []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no module information")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
