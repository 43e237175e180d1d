package hcssim_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

// scenario is something that goes wrong, by the name that docs and issues know it under.
type scenario struct {
	name   string
	test   string
	env    []string
	faults []hcssim.Fault
	then   string // a test that cleans up without the faults
}

var scenarios = []scenario{
	{name: "activate-0x20-once", test: "TestFaultActivate", env: []string{"WANT=0x20"}, faults: []hcssim.Fault{{Call: "ActivateLayer", HRESULT: 0x80070020}}},
	{name: "activate-not-ready", test: "TestFaultActivate", env: []string{"WANT=0x15"}, faults: []hcssim.Fault{{Call: "ActivateLayer", HRESULT: 0x80070015}}},
	{name: "activate-not-connected", test: "TestFaultActivate", env: []string{"WANT=0x48f"}, faults: []hcssim.Fault{{Call: "ActivateLayer", HRESULT: 0x8007048F}}},
	{name: "prepare-timeout", test: "TestFaultPrepare", faults: []hcssim.Fault{{Call: "PrepareLayer", HRESULT: 0x800705B4}}},
	{name: "create-fails-at-once", test: "TestFaultCreate", faults: []hcssim.Fault{{Call: "HcsCreateComputeSystem", HRESULT: 0xC0370101}}},
	{name: "create-fails-later", test: "TestFaultCreate", faults: []hcssim.Fault{{Call: "HcsCreateComputeSystem", NotificationStatus: 0xC0370106}}},
	{name: "start-lost", test: "TestFaultStartLost", env: []string{"HCSSHIM_TIMEOUT_SYSTEMSTART=1"}, faults: []hcssim.Fault{{Call: "HcsStartComputeSystem", DropNotification: true}}},
	{name: "start-hangs", test: "TestFaultStartHangs", env: []string{"HCSSHIM_TIMEOUT_SYSTEMSTART=1"}, faults: []hcssim.Fault{{Call: "HcsStartComputeSystem", Hang: true}}},
	{name: "start-0xC0370106", test: "TestFaultStartFails", faults: []hcssim.Fault{{Call: "HcsStartComputeSystem", NotificationStatus: 0xC0370106}}},
	{name: "terminate-hangs", test: "TestFaultTerminateHangs", faults: []hcssim.Fault{{Call: "HcsTerminateComputeSystem", DropNotification: true}}},
	{name: "create-process-fails", test: "TestFaultCreateProcess", faults: []hcssim.Fault{{Call: "HcsCreateProcess", HRESULT: 0x80070008}}},
	{name: "register-fails", test: "TestFaultRegister", faults: []hcssim.Fault{{Call: "HcsRegisterProcessCallback", HRESULT: 0x80070008}}},
	{name: "destroy-denied-3x", test: "TestFaultDestroy", faults: []hcssim.Fault{{Call: "DestroyLayer", Times: 3, HRESULT: 0x80070005}}},
	{name: "left-over-mount", test: "TestFaultDetach"},
	{name: "service-stops", test: "TestFaultServiceStops", faults: []hcssim.Fault{{Call: "HcsEnumerateComputeSystems", StopService: true}}, then: "TestFaultServiceBack"},
	{name: "expand", test: "TestFaultExpand"},
	{name: "template-in-use", test: "TestFaultTemplate"},
}

// TestScenarios shows each to the real hcsshim on one machine. Each leaves nothing behind.
func TestScenarios(t *testing.T) {
	s := hcssim.Start(t, hcssim.Options{})
	binary := hcssim.TestBinary(t, client)
	for _, scenario := range scenarios {
		t.Run(scenario.name, func(t *testing.T) {
			for _, fault := range scenario.faults {
				fault.Name = scenario.name
				s.Fault(fault)
			}
			out, err := run(s, binary, scenario.test, scenario.env...)
			s.ClearFaults()
			s.StartService()
			require.NoError(t, err, out)
			if scenario.then != "" {
				out, err = run(s, binary, scenario.then)
				require.NoError(t, err, out)
			}
			require.Empty(t, strings.Join(s.Leaks(), "\n"), out)
			require.Empty(t, s.Broken(), out)
			for _, fault := range scenario.faults {
				require.True(t, struck(s, fault.Call, scenario.name), "nothing went wrong")
			}
		})
	}
}

// run runs one test of the client's on a machine.
func run(s *hcssim.Sim, binary, test string, env ...string) (string, error) {
	command := s.Command(binary, "-test.v", "-test.timeout=1m", "-test.run=^"+test+"$")
	command.Env = append(command.Env, env...)
	out, err := command.CombinedOutput()
	return strings.ReplaceAll(string(out), "\r\n", "\n"), err
}

// struck says whether a fault has hit a call.
func struck(s *hcssim.Sim, call, name string) bool {
	for _, traced := range s.Trace() {
		if traced.Function == call && traced.Fault == name {
			return true
		}
	}
	return false
}

// TestCrash lets a utility VM die under a running process.
func TestCrash(t *testing.T) {
	s := hcssim.Start(t, hcssim.Options{})
	binary := hcssim.TestBinary(t, client)
	go func() {
		for t.Context().Err() == nil { // a loaded machine takes its time to start the client
			for _, call := range s.Trace() {
				if call.Function == "HcsRegisterProcessCallback" && call.HRESULT == 0 {
					s.Crash("crash")
					return
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	out, err := run(s, binary, "TestFaultCrash")
	require.NoError(t, err, out)
}

// TestDeath kills a client in the middle of a call, before and after the service has done it; the next process recovers.
func TestDeath(t *testing.T) {
	for _, fault := range []hcssim.Fault{
		{Name: "before", Call: "HcsStartComputeSystem", KillClient: true},
		{Name: "after", Call: "HcsStartComputeSystem", KillAfter: true},
	} {
		t.Run(fault.Name, func(t *testing.T) {
			s := hcssim.Start(t, hcssim.Options{})
			binary := hcssim.TestBinary(t, client)
			s.Fault(fault)
			// Not the status: Wine lets a terminated process end with 0 when the signal finds its last thread first.
			out, _ := run(s, binary, "TestFaultDeath")
			require.Contains(t, out, "=== RUN   TestFaultDeath")
			require.NotContains(t, out, "--- ", "no test of a killed process has a result")
			require.NotEmpty(t, s.Leaks())
			out, err := run(s, binary, "TestFaultRecovery")
			require.NoError(t, err, out)
		})
	}
	t.Run("reboot", func(t *testing.T) {
		s := hcssim.Start(t, hcssim.Options{})
		binary := hcssim.TestBinary(t, client)
		s.Fault(hcssim.Fault{Call: "HcsStartComputeSystem", KillAfter: true})
		run(s, binary, "TestFaultDeath")
		s.Reboot()
		out, err := run(s, binary, "TestFaultReboot")
		require.NoError(t, err, out)
	})
}

// TestMissing is a Windows without containers, and one whose service is stopped.
func TestMissing(t *testing.T) {
	binary := hcssim.TestBinary(t, client)
	s := hcssim.Start(t, hcssim.Options{Without: true})
	out, err := run(s, binary, "TestFaultMissing", "WANT=odule")
	require.NoError(t, err, out)
	s = hcssim.Start(t, hcssim.Options{})
	s.StopService()
	out, err = run(s, binary, "TestFaultMissing", "WANT=RPC server unavailable")
	require.NoError(t, err, out)
}

// TestPrivileges: an import without them is refused, and the breach is kept.
func TestPrivileges(t *testing.T) {
	s := hcssim.Start(t, hcssim.Options{})
	out, err := run(s, hcssim.TestBinary(t, client), "TestFaultPrivileges")
	require.NoError(t, err, out)
	require.Len(t, s.Broken(), 2)
}

// TestPlantedLeak: what a client leaves fails its test, unless it is asked for before.
func TestPlantedLeak(t *testing.T) {
	s := hcssim.Start(t, hcssim.Options{KeepLeaks: true})
	s.Fault(hcssim.Fault{Call: "HcsTerminateComputeSystem", KillClient: true})
	run(s, hcssim.TestBinary(t, client), "TestArgon")
	require.Contains(t, strings.Join(s.Leaks(), "\n"), `scratch C:\ProgramData\hcssim-test\argon-1 is mounted`)
}
