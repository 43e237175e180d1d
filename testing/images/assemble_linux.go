package images

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ballast is what a package brings that no job needs.
var ballast = []string{
	"/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/lintian/",
	"/usr/share/bash-completion/", "/usr/share/doc-base/", "/usr/share/bug/", "/usr/share/menu/",
	"/usr/share/perl5/", "/usr/share/gitweb/", "/usr/share/ca-certificates/", "/var/",
}

// etc are the files of /etc that belong to no package. gitconfig is what `git lfs install --system` writes, as in GitLab's
// helper image; without it the runner's `git lfs pull` fetches large files and leaves them out of the work tree.
var etc = map[string]string{
	"etc/gitconfig": "[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge -- %f\n" +
		"\tprocess = git-lfs filter-process\n\trequired = true\n",
	"etc/passwd":        "root:x:0:0:root:/root:/bin/bash\nbuilder:x:1000:1000::/home/builder:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"etc/group":         "root:x:0:\nbuilder:x:1000:\nnogroup:x:65534:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

// merged are the directories that are links into /usr, in Debian and here.
var merged = []string{"bin", "sbin", "lib", "lib64"}

// root is a root directory in the making.
type root struct {
	dir string
	// inodes remembers, by the device and inode of a host's file, under which name it was copied.
	inodes map[string]string
}

// assemble fills dir with the files of packages, further files, and the shared libraries of all of them.
func assemble(ctx context.Context, dir string, packages []string, files map[string]string) error {
	r := &root{dir: dir, inodes: map[string]string{}}
	if err := r.skeleton(); err != nil {
		return err
	}
	list, err := exec.CommandContext(ctx, "dpkg", append([]string{"-L"}, packages...)...).Output()
	if err != nil {
		return fmt.Errorf("asking dpkg for the files of %s: %w", strings.Join(packages, ", "), err)
	}
	for _, path := range strings.Split(string(list), "\n") {
		if !strings.HasPrefix(path, "/") || slices.ContainsFunc(ballast, func(p string) bool { return strings.HasPrefix(path, p) }) {
			continue
		}
		if err := r.add(path, path); err != nil {
			return err
		}
	}
	for from, to := range files {
		if err := r.add(from, to); err != nil {
			return err
		}
	}
	return nil
}

func (r *root) skeleton() error {
	for _, name := range []string{"dev", "etc", "home/builder", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(r.dir, name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range merged {
		if err := os.MkdirAll(filepath.Join(r.dir, "usr", name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+name, filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	for name, content := range etc {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Chmod(filepath.Join(r.dir, "tmp"), fs.ModeSticky|0o777),
		os.Chown(filepath.Join(r.dir, "home/builder"), 1000, 1000))
}

// add copies one file, link or directory, and the libraries that a program needs. What is there already stays.
func (r *root) add(from, to string) error {
	info, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // listed by the package, removed by the administrator
	}
	if err != nil {
		return err
	}
	target := filepath.Join(r.dir, usrMerged(to))
	if _, err := os.Lstat(target); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	switch {
	case info.IsDir():
		return os.MkdirAll(target, info.Mode().Perm())
	case info.Mode()&fs.ModeSymlink != 0:
		return r.link(from, target)
	case info.Mode().IsRegular():
		return r.file(from, target, info)
	default:
		return fmt.Errorf("%s is neither a file, a link nor a directory", from)
	}
}

// usrMerged returns where a path really is when /bin and its like are links.
func usrMerged(path string) string {
	path = strings.TrimPrefix(path, "/")
	first, _, _ := strings.Cut(path, "/")
	if slices.Contains(merged, first) && path != first {
		return "usr/" + path
	}
	return path
}

// link copies a symbolic link; what it leads to comes too, if it is a file.
func (r *root) link(from, target string) error {
	text, err := os.Readlink(from)
	if err != nil {
		return err
	}
	if err := os.Symlink(text, target); err != nil {
		return err
	}
	if !filepath.IsAbs(text) {
		text = filepath.Join(filepath.Dir(from), text)
	}
	if info, err := os.Stat(text); err != nil || !info.Mode().IsRegular() {
		return nil // a dangling link is the package's own business
	}
	return r.add(text, text)
}

func (r *root) file(from, target string, info fs.FileInfo) error {
	inode := fileID(info)
	if earlier, ok := r.inodes[inode]; ok { // git's many names for one program
		relative, err := filepath.Rel(filepath.Dir(target), earlier)
		if err != nil {
			return err
		}
		return os.Symlink(relative, target)
	}
	r.inodes[inode] = target
	if err := copyFile(from, target, info.Mode()); err != nil {
		return err
	}
	return r.libraries(from)
}

func copyFile(from, to string, mode fs.FileMode) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close(), os.Chmod(to, mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid)))
}

// libraries adds the shared libraries and the loader that an ELF file needs; other files need none.
func (r *root) libraries(file string) error {
	binary, err := elf.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = binary.Close() }()
	for _, segment := range binary.Progs {
		if segment.Type == elf.PT_INTERP {
			loader, err := io.ReadAll(segment.Open())
			if err != nil {
				return err
			}
			path := strings.TrimRight(string(loader), "\x00")
			if err := r.add(path, path); err != nil {
				return err
			}
		}
	}
	needed, err := binary.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("reading the libraries of %s: %w", file, err)
	}
	for _, name := range needed {
		if err := r.library(name, file); err != nil {
			return err
		}
	}
	return nil
}

func (r *root) library(name, user string) error {
	for _, pattern := range []string{"/usr/lib/*-linux-gnu/", "/usr/lib/", "/usr/lib64/"} {
		found, err := filepath.Glob(pattern + name)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return r.add(found[0], found[0])
		}
	}
	return fmt.Errorf("the library %s, which %s needs, is not installed", name, user)
}
