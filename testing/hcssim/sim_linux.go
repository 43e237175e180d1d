package hcssim

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// GuestMode is how the processes of containers run.
type GuestMode int

const (
	// Shared runs them in the clients' own prefix: fast, but every container sees the same C:, which is not its image,
	// and mapped directories are links there, writable whatever their document says.
	Shared GuestMode = iota
	// Isolated gives each container a prefix of its own, whose C: is an overlay of its layers and its scratch. It needs
	// root, and about a second for each container.
	Isolated
)

// String returns "shared" or "isolated".
func (m GuestMode) String() string {
	if m == Isolated {
		return "isolated"
	}
	return "shared"
}

// Options says what the machine is.
type Options struct {
	// Build is the host's build, 20348 (Server 2022) when it is 0; 17763 is Server 2019, 26100 Server 2025.
	Build int
	Guest GuestMode
	// Seed chooses among the behaviours that the real service leaves open; 0 takes $HCSSIM_SEED, or one from the clock.
	// It is logged.
	Seed uint64
	// Without leaves the service's DLLs out, as a Windows without the feature "Containers" has none.
	Without bool
	// KeepRules and KeepLeaks keep the end of the test from failing because of broken rules, or of leaks.
	KeepRules, KeepLeaks bool
}

// Fault, Call and HRESULT are those of the service.
type (
	Fault   = service.Fault
	Call    = service.Call
	HRESULT = service.HRESULT
)

// Always is a Fault's Times without end.
const Always = service.Always

// Sim is one simulated machine.
type Sim struct {
	t       testing.TB
	options Options
	dir     string // all that it owns
	prefix  *prefix
	service *service.Service
	guests  guests
	broker  *broker
}

// guests is what a mode of guests is to a Sim.
type guests interface {
	service.Guests
	close()
}

// Start starts a machine, which ends with the test. It fails the test where Wine or a compiler is missing: make deps
// installs both.
func Start(t testing.TB, options Options) *Sim {
	t.Helper()
	if options.Build == 0 {
		options.Build = 20348
	}
	if options.Seed == 0 {
		options.Seed = seed(t)
	}
	t.Logf("hcssim: simulated Windows build %d, seed %d (HCSSIM_SEED=%[2]d repeats it)", options.Build, options.Seed)
	s := &Sim{t: t, options: options}
	dir := t.TempDir() // before Cleanup, so that it is removed after the end
	t.Cleanup(s.end)
	if err := s.start(dir); err != nil {
		t.Fatalf("hcssim: %v", err)
	}
	return s
}

func seed(t testing.TB) uint64 {
	text := os.Getenv("HCSSIM_SEED")
	if text == "" {
		return uint64(time.Now().UnixNano())%1_000_000 + 1
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("HCSSIM_SEED: %v", err)
	}
	return n
}

func (s *Sim) start(dir string) error {
	s.dir = dir
	from, err := templates(s.t.Context())
	if err != nil {
		return err
	}
	secret := make([]byte, 16)
	rand.Read(secret)
	if s.broker, err = listen(hex.EncodeToString(secret)); err != nil {
		return err
	}
	if s.prefix, err = clonePrefix(from, filepath.Join(dir, "client"), s.options.Build); err != nil {
		return err
	}
	if err := s.prefix.introduce(s.broker, !s.options.Without); err != nil {
		return err
	}
	helper, err := s.prefix.startGuest(s.broker)
	if err != nil {
		return err
	}
	s.guests = &sharedGuests{guest: helper, prefix: s.prefix}
	if s.options.Guest == Isolated {
		s.guests = &isolatedGuests{sharedGuests: s.guests.(*sharedGuests), template: from, broker: s.broker, dir: dir, build: s.options.Build}
	}
	s.service = service.New(service.Config{
		Build: s.options.Build, Seed: s.options.Seed, Disk: s.prefix, Guests: s.guests, Log: s.t.Logf, Kill: helper.killClient,
	})
	s.broker.serve(s.service)
	return nil
}

// Fault sets something to go wrong. See service.Fault for what.
func (s *Sim) Fault(f Fault) { s.service.Fault(f) }

// ClearFaults takes all faults away. Calls that hang go on hanging.
func (s *Sim) ClearFaults() { s.service.ClearFaults() }

// Trace returns all calls so far.
func (s *Sim) Trace() []Call { return s.service.Trace() }

// Broken returns the rules that were broken since it was asked last. What it has returned does not fail the test any more.
func (s *Sim) Broken() []error { return s.service.Broken() }

// Leaks lists what clients have left on the machine.
func (s *Sim) Leaks() []string { return append(s.service.Leaks(), s.prefix.leaks()...) }

// Forgive forgets handles that clients left open so far, for tests that end them hard.
func (s *Sim) Forgive() { s.service.Forgive() }

// Reboot ends systems, mounts and NAT networks, as a restart of the machine does; files and endpoints stay. Clients have
// to be ended before.
func (s *Sim) Reboot() { s.service.Reboot() }

// StopService stops the compute service, StartService starts it again.
func (s *Sim) StopService()  { s.service.StopService() }
func (s *Sim) StartService() { s.service.StartService() }

// Crash lets a container end by itself, as one whose utility VM dies.
func (s *Sim) Crash(id string) error { return s.service.Crash(id) }

// Drive is the native directory of the machine's C:.
func (s *Sim) Drive() string { return s.prefix.drive }

// Path returns the native path of a Windows path below C:, in the case of what exists.
func (s *Sim) Path(windows string) string {
	path, err := s.prefix.Path(windows)
	if err != nil {
		s.t.Fatalf("hcssim: %v", err)
	}
	return path
}

// check fails the test for broken rules and leaks.
func (s *Sim) check() {
	if !s.options.KeepLeaks {
		s.broker.settle(2 * time.Second)
	}
	leaks := s.Leaks() // first: looking for them may find a broken rule
	if !s.options.KeepLeaks {
		for _, leak := range leaks {
			s.t.Errorf("hcssim: left behind: %s", leak)
		}
	}
	if !s.options.KeepRules {
		for _, err := range s.Broken() {
			s.t.Errorf("hcssim: a rule was broken: %v", err)
		}
	}
	if s.t.Failed() && testing.Verbose() {
		for _, call := range s.Trace() {
			s.t.Log(call)
		}
	}
}

// end ends the machine, and fails the test for broken rules and leaks.
func (s *Sim) end() {
	if s.service != nil {
		s.check()
		s.service.Close()
	}
	if s.guests != nil {
		s.guests.close()
	}
	if s.broker != nil {
		s.broker.close()
	}
	if s.prefix != nil {
		if err := s.prefix.stop(); err != nil {
			s.t.Error(fmt.Errorf("hcssim: %w", err))
		}
	}
}
