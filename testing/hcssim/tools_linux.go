package hcssim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

// sources are the parts in C. They are compiled when they are needed first, never kept in git.
//
//go:embed dll guest compat
var sources embed.FS

// loader and server are Wine's, in Debian's package wine64; compiler is of gcc-mingw-w64-x86-64.
const (
	loader   = "/usr/lib/wine/wine64"
	server   = "/usr/lib/wine/wineserver64"
	compiler = "x86_64-w64-mingw32-gcc"
)

// binaries are what is compiled: the file, its source, what it is told.
func binaries() [][]string {
	const forwarding = "dll/hcssim.c"
	return [][]string{
		{"vmcompute.dll", forwarding, "-shared", "-DVMCOMPUTE"},
		{"computenetwork.dll", forwarding, "-shared", "-DCOMPUTENETWORK"},
		{"computestorage.dll", forwarding, "-shared", "-DCOMPUTESTORAGE"},
		{"virtdisk.dll", forwarding, "-shared", "-DVIRTDISK"},
		{"bcryptprimitives.dll", "compat/bcryptprimitives.c", "-shared"},
		{"hcsguest.exe", "guest/hcsguest.c"},
	}
}

// serviceDLLs are those that a Windows without containers lacks.
func serviceDLLs() []string {
	return []string{"vmcompute.dll", "computenetwork.dll", "computestorage.dll"}
}

// version returns what a tool says of itself.
func version(ctx context.Context, tool string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, tool, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w (make deps installs wine64 and gcc-mingw-w64-x86-64)", tool, err)
	}
	return out, nil
}

// compiled returns a directory with all binaries in windows/system32, compiled once for each state of the sources.
func compiled(ctx context.Context) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, binaries())
	err := fs.WalkDir(sources, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := sources.ReadFile(path)
		fmt.Fprintln(sum, path, len(text))
		sum.Write(text)
		return err
	})
	if err != nil {
		return "", err
	}
	out, err := version(ctx, compiler)
	if err != nil {
		return "", err
	}
	sum.Write(out)
	return gitlabtest.Cached(ctx, fmt.Sprintf("hcssim-dlls-%.16x", sum.Sum(nil)), func(ctx context.Context, path string) error {
		return compile(ctx, filepath.Join(path, "windows", "system32"))
	})
}

// compile compiles all binaries into a directory.
func compile(ctx context.Context, into string) error {
	dir, err := os.MkdirTemp("", "hcssim")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.CopyFS(dir, sources), os.MkdirAll(into, 0o755)); err != nil {
		return err
	}
	for _, binary := range binaries() {
		args := append([]string{"-O2", "-s", "-Wall", "-Wno-unused-function", "-Wno-attributes", "-o", filepath.Join(into, binary[0])}, binary[2:]...)
		args = append(args, binary[1], "-lws2_32", "-lole32", "-ladvapi32", "-lntdll")
		command := exec.CommandContext(ctx, compiler, args...)
		command.Dir = dir
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("compiling %s: %w\n%s", binary[0], err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// environment is that of everything under Wine.
func environment(prefix string) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "WINE") && name != "DISPLAY" && name != "WAYLAND_DISPLAY" {
			env = append(env, pair)
		}
	}
	return append(env, "WINEPREFIX="+prefix, "WINEDEBUG=-all", "WINEARCH=win64", "WINEDLLOVERRIDES=mscoree,mshtml,winemenubuilder.exe=")
}

// endWine ends every process of a prefix, Wine's own included, and returns when none is left. Nothing that they would
// still write is wanted. It knows them by the prefix in their environment, which those that Wine starts inherit.
func endWine(prefix string) error {
	mark := []byte("WINEPREFIX=" + prefix + "\x00")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, err := killMarked(mark)
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of Wine in %s do not end", left, prefix)
		}
	}
}

// killMarked kills the processes that have a mark in their environment, and returns how many there were. What is killed is
// what was looked at: it is held by a descriptor first.
func killMarked(mark []byte) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	found := 0
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err == nil && bytes.Contains(append([]byte{0}, env...), append([]byte{0}, mark...)) {
			found++
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		unix.Close(fd)
	}
	return found, nil
}
