//go:build wine

package hcs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

// These tests run the real adapter and the real hcsshim under Wine against the simulated service of testing/hcssim. They
// prove that we keep to the rules that the simulator knows, and nothing about a real Windows. They take minutes,
// so they are built with the tag wine alone: `make test-windows`.

func runOnWindows(t *testing.T, s *hcssim.Sim, binary, test string, env ...string) (string, error) {
	t.Helper()
	command := s.Command(binary, "-test.v", "-test.timeout=4m", "-test.run="+test)
	command.Env = append(command.Env, env...)
	overdue := time.AfterFunc(5*time.Minute, func() { _ = command.Process.Kill() })
	defer overdue.Stop()
	out, err := command.CombinedOutput()
	return strings.ReplaceAll(string(out), "\r\n", "\n"), err
}

func requireRun(t *testing.T, s *hcssim.Sim, binary, test string, env ...string) {
	t.Helper()
	out, err := runOnWindows(t, s, binary, test, env...)
	keep(t, out)
	require.NoError(t, err, "on simulated Windows:\n%s", tail(out))
	require.Contains(t, out, "PASS")
}

// keep keeps an output for comparison with that of a real host (testing/windows/smoke.ps1), where $AIRLOCK_TEST_OUTPUT
// names a directory for it.
func keep(t *testing.T, out string) {
	t.Helper()
	dir := os.Getenv("AIRLOCK_TEST_OUTPUT")
	if dir == "" {
		return
	}
	file, err := os.OpenFile(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+".txt"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	require.NoError(t, err)
	_, err = file.WriteString(out)
	require.NoError(t, errors.Join(err, file.Close()))
}

// tail keeps a failure readable: the end of it, without the trace of calls.
func tail(text string) string {
	const most = 12000
	var said strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, `"message":"compute service"`) {
			said.WriteString(line)
		}
	}
	text = said.String()
	if len(text) > most {
		return "..." + text[len(text)-most:]
	}
	return text
}

func TestConformanceOnSimulatedWindows(t *testing.T) {
	binary := hcssim.TestBinary(t, "./isolation/hcs")
	for name, mode := range map[string]hcssim.GuestMode{"shared": hcssim.Shared, "isolated": hcssim.Isolated} {
		t.Run(name, func(t *testing.T) {
			s := hcssim.Start(t, hcssim.Options{Guest: mode})
			for _, test := range []string{"^TestRealProcessLevel$", "^TestRealHypervisorLevel$"} {
				began := time.Now()
				requireRun(t, s, binary, test, "AIRLOCK_TEST_GUEST="+name)
				t.Logf("%s took %s", test, time.Since(began).Round(100*time.Millisecond))
			}
		})
	}
	t.Run("rule of builds", func(t *testing.T) {
		requireRun(t, hcssim.Start(t, hcssim.Options{}), binary, "^TestRealFits$|^TestFits$")
	})
}

// TestScenariosOnSimulatedWindows plays the named scenarios of TestScenarios with the errors that the real hcsshim makes
// of the service's.
func TestScenariosOnSimulatedWindows(t *testing.T) {
	binary := hcssim.TestBinary(t, "./isolation/hcs")
	const process, hypervisor = "1", "2"
	for _, test := range []struct {
		name, level string
		fault       hcssim.Fault
		fails       string
		env         []string
	}{
		{"none", process, hcssim.Fault{}, "", nil},
		{"none-in-a-machine", hypervisor, hcssim.Fault{}, "", nil},
		{"activate-0x20-once", process, hcssim.Fault{Call: "ActivateLayer", HRESULT: 0x80070020, Times: 1}, "", nil},
		{"activate-0x20-always", process, hcssim.Fault{Call: "ActivateLayer", HRESULT: 0x80070020, Times: hcssim.Always}, "a virus scanner", nil},
		{"activate-0x15-four-times", process, hcssim.Fault{Call: "ActivateLayer", HRESULT: 0x80070015, Times: 4}, "", nil},
		{"prepare-0x48f-twice", process, hcssim.Fault{Call: "PrepareLayer", HRESULT: 0x8007048F, Times: 2}, "", nil},
		{"prepare-timeout-once", process, hcssim.Fault{Call: "PrepareLayer", HRESULT: 0x800705B4, Times: 1}, "", nil},
		{"start-lost-once", process, hcssim.Fault{Call: "HcsStartComputeSystem", DropNotification: true, Times: 1}, "", []string{"HCSSHIM_TIMEOUT_SYSTEMSTART=3"}},
		{"start-unexpected-exit", hypervisor, hcssim.Fault{Call: "HcsStartComputeSystem", NotificationStatus: 0xC0370106, Times: 1}, "too little memory", nil},
		{"create-process-denied", process, hcssim.Fault{Call: "HcsCreateProcess", HRESULT: 0x80070005, Times: 1}, "starting cmd.exe", nil},
		{"destroy-denied-twice", process, hcssim.Fault{Call: "DestroyLayer", HRESULT: 0x80070005, Times: 2}, "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := hcssim.Start(t, hcssim.Options{KeepLeaks: true})
			if test.fault.Call != "" {
				s.Fault(test.fault)
			}
			requireRun(t, s, binary, "^TestRealLife$", append(test.env, "AIRLOCK_TEST_LEVEL="+test.level, "AIRLOCK_TEST_FAILS="+test.fails)...)
			requireNoLeaks(t, s, binary)
		})
	}
}

// requireNoLeaks lets a new process sweep what the last one had no time to delete, and then nothing may be left.
func requireNoLeaks(t *testing.T, s *hcssim.Sim, binary string) {
	t.Helper()
	s.Forgive()
	if len(s.Leaks()) > 0 {
		requireRun(t, s, binary, "^TestRealSweep$")
	}
	requireNothingLeft(t, s)
}

// requireNothingLeft forgives handles of processes that were ended hard: the machine learns of their end a little later.
func requireNothingLeft(t *testing.T, s *hcssim.Sim) {
	t.Helper()
	var left []string
	require.Eventually(t, func() bool { s.Forgive(); left = s.Leaks(); return len(left) == 0 }, 20*time.Second, 50*time.Millisecond, "%v", &left)
}

func TestCrashOnSimulatedWindows(t *testing.T) {
	binary := hcssim.TestBinary(t, "./isolation/hcs")
	s := hcssim.Start(t, hcssim.Options{KeepLeaks: true})
	out, err := runOnWindows(t, s, binary, "^TestRealCrash$")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, out)
	require.Contains(t, out, "made al-")
	require.NotEmpty(t, s.Leaks())
	requireRun(t, s, binary, "^TestRealSweep$")
	requireNothingLeft(t, s)
}
