package doctor

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// commandTimeout bounds every command that a check runs.
const commandTimeout = 10 * time.Second

// checkBinaries looks for the programs that belong to airlock and asks each for its version.
func checkBinaries(ctx context.Context, r *report, options Options) {
	for _, name := range programs {
		checkBinary(ctx, r, options, name)
	}
}

func checkBinary(ctx context.Context, r *report, options Options, name string) {
	const remedy = "install all programs of one release into the same directory"
	path, err := findBinary(options.BinDir, name)
	if err != nil {
		r.fail(name, remedy, "%v", err)
		return
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil || !strings.HasSuffix(info.Path, "/cmd/"+name) {
		r.fail(name, remedy, "%s is not Airlock's %s", path, name)
		return
	}
	version, ok := programVersion(ctx, path, name)
	switch {
	case !ok:
		r.ok(name, "%s, built with %s", path, info.GoVersion)
	case version != options.Version:
		r.fail(name, remedy, "%s is of version %s, airlock of %s", path, version, options.Version)
	default:
		r.ok(name, "%s, version %s", path, version)
	}
}

// programVersion asks a program for its version ("NAME VERSION"); not each of them tells.
func programVersion(ctx context.Context, path, name string) (version string, ok bool) {
	line, err := firstLine(ctx, path, "version")
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(line, name+" ")
}

// findBinary returns the path of one of Airlock's programs: beside airlock itself, else in PATH.
func findBinary(dir, name string) (string, error) {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if dir != "" {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither in %s nor in PATH", name, dir)
	}
	return path, nil
}

// firstLine runs a command and returns the first line of its stdout.
func firstLine(ctx context.Context, name string, args ...string) (string, error) {
	out, err := output(ctx, name, args...)
	line, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(line), err
}

// output runs a command and returns its stdout; an error carries the end of its stderr.
func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("no end within %s", commandTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil && stderr.Len() > 0:
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return string(out), err
}
