package hcssim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Command returns a command that runs a Windows program on the machine, with this process's environment. The program's
// path is native or a Windows one. Kill the command to kill the program, or let a Fault do it. HCSSIM_GUEST is "shared" or
// "isolated" in its environment, for tests that depend on it.
func (s *Sim) Command(program string, args ...string) *exec.Cmd {
	command := exec.Command(loader, append([]string{program}, args...)...)
	command.Env = append(environment(s.prefix.dir), "HCSSIM_GUEST="+s.options.Guest.String())
	return command
}

// Run runs a Windows program and returns what it wrote, both streams together, without carriage returns.
func (s *Sim) Run(program string, args ...string) (string, error) {
	out, err := s.Command(program, args...).CombinedOutput()
	return strings.ReplaceAll(string(out), "\r\n", "\n"), err
}

// Test builds the tests of a package of this module for Windows and runs them on the machine, in the package's directory.
// Their output is logged; when they fail, so does t.
func (s *Sim) Test(t testing.TB, pkg string, args ...string) {
	t.Helper()
	command := s.Command(TestBinary(t, pkg), append([]string{"-test.v", "-test.timeout=6m"}, args...)...)
	command.Dir = goList(t, pkg, "{{.Dir}}")
	out, err := command.CombinedOutput()
	t.Logf("%s on simulated Windows:\n%s", pkg, strings.ReplaceAll(string(out), "\r\n", "\n"))
	if err != nil {
		t.Errorf("%s on simulated Windows: %v", pkg, err)
	}
}

// TestBinary builds the tests of a package of this module for Windows.
func TestBinary(t testing.TB, pkg string) string {
	t.Helper()
	return goBuild(t, pkg, "test", "-c")
}

// Program builds a program of this module for Windows.
func Program(t testing.TB, pkg string) string {
	t.Helper()
	return goBuild(t, pkg, "build")
}

// goBuild builds a package with one of go's commands, into a directory that lives as long as t.
func goBuild(t testing.TB, pkg string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg)+".exe")
	command := exec.Command("go", append(args, "-buildvcs=false", "-o", out, pkg)...)
	command.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	command.Dir = goList(t, "", "")
	if text, err := command.CombinedOutput(); err != nil {
		t.Fatalf("building %s for Windows: %v\n%s", pkg, err, text)
	}
	if _, err := os.Stat(out); err != nil {
		t.Fatalf("%s has no tests for Windows", pkg)
	}
	return out
}

// goList returns what go list says of a package for Windows; of none, the module's directory. Patterns like ./isolation/hcs
// are relative to that.
func goList(t testing.TB, pkg, format string) string {
	t.Helper()
	command := exec.Command("go", "list", "-m", "-f", "{{.Dir}}")
	if pkg != "" {
		root := goList(t, "", "")
		command = exec.Command("go", "list", "-f", format, pkg)
		command.Dir = root
	}
	command.Env = append(os.Environ(), "GOOS=windows", "CGO_ENABLED=0")
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pkg, err)
	}
	return strings.TrimSpace(string(out))
}
