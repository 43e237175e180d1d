// Package hcssim runs Windows programs that use the real, unmodified hcsshim on Linux: under Wine, against a simulated
// Host Compute Service. Everything it shows is simulated; docs/windows-simulator.md says what that proves and what not.
//
// A Sim is one simulated Windows machine for one test: a Wine prefix with the build that was asked for, forwarding DLLs
// in its system32 (dll/, C without logic), and the service itself (package service), which runs in the test's own
// process. Programs are started by Test, Run and Command; faults, restarts and checks are set from the test's side, so
// that nothing in the program under test knows of them:
//
//	s := hcssim.Start(t, hcssim.Options{Build: 20348, Guest: hcssim.Shared})
//	s.Fault(hcssim.Fault{Call: "ActivateLayer", HRESULT: 0x80070020})
//	s.Test(t, "./isolation/hcs", "-test.run=TestArgon") // go test -c for Windows, run under Wine
//
// When the test ends, it fails if the program broke a rule of the service (Broken), or left something behind (Leaks).
//
// Layers for such programs to import come from package layertar, on either side. The package is for tests alone; it
// must never loosen a rule for the sake of a client, and removes files below its own directories only.
package hcssim
