package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/frame"
)

// A virtual machine executes the agent twice before it is ready:
//   - as the kernel's first program, BootGuest: it loads the modules, mounts what is the same in every sandbox, enters
//     a cgroup, gives up what it will not need, and executes itself;
//   - as what stays, InitGuest: it opens the port to the executor and says that it is ready. There a template is saved.
//     Told who it is, it makes the roots, confines itself as an OCI runtime confines a container, and serves as in one.
//     Before that it may be told to warm up: a child, the third execution, does the same and is thrown away.
//
// Namespaces and bounding sets belong to threads and pass on by execution; so all threads of the second have what one
// thread of the first made.

// BootGuest is the first execution. It returns only with an error; the machine is of no use then.
func BootGuest() error {
	runtime.LockOSThread()
	unix.Umask(0o022)
	if err := mountKernel(); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"loading modules", func() error { return loadModules(GuestModules) }},
		{"setting sysctls", setSysctls},
		{"bringing the loopback up", loopbackUp},
		{"entering a cgroup", enterCgroup},
		{"preparing the roots", prepareRoots},
		{"giving up privileges", limitPrivileges},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	err := unix.Exec(agentProgram, []string{agentProgram, GuestArgument}, []string{"PATH=" + defaultPath})
	return fmt.Errorf("executing %s: %w", agentProgram, err)
}

// InitGuest is the second execution: it returns when the executor has ended the connection, or with an error.
func InitGuest() error {
	g, err := prepareGuest()
	if err != nil {
		return err
	}
	port, err := openPort(GuestPort)
	if err != nil {
		return err
	}
	for {
		if err := frame.WriteJSON(port, frameReply, reply{Hello: &greeting{Version: GuestVersion}}); err != nil {
			return fmt.Errorf("greeting the executor: %w", err)
		}
		setup, err := readGuestSetup(port)
		if err != nil {
			return err
		}
		if err := frame.WriteJSON(port, frameReply, reply{Hello: &greeting{Version: GuestVersion}}); err != nil {
			return fmt.Errorf("answering the executor: %w", err)
		}
		if !setup.WarmUp {
			return g.become(setup, port)
		}
		if err := g.warmUp(port, setup); err != nil {
			return err
		}
	}
}

// become makes this process the agent of the sandbox that the setup describes, and returns when the executor has ended the
// connection.
func (g *guest) become(setup GuestSetup, conn *os.File) error {
	if err := setup.apply(g); err != nil {
		return errors.Join(err, frame.WriteJSON(conn, frameReply, reply{Error: toWire(err)}), awaitHangUp(conn))
	}
	if err := frame.WriteJSON(conn, frameReply, reply{}); err != nil {
		return fmt.Errorf("answering the executor: %w", err)
	}
	return g.server.run(conn)
}

// guest is what was prepared before the guest knew which sandbox it is.
type guest struct {
	disks  map[string]string // devices by serial number
	filter []byte
	server *server
}

// prepareGuest does what need not be done again in each clone of a template.
func prepareGuest() (*guest, error) {
	filter, err := os.ReadFile(GuestFilter)
	if err != nil {
		return nil, fmt.Errorf("reading the filter: %w", err)
	}
	g := &guest{filter: filter}
	if err := g.findDisks(); err != nil {
		return nil, fmt.Errorf("looking for disks: %w", err)
	}
	if g.server, err = newServer(); err != nil {
		return nil, err
	}
	if g.server.usage, err = openUsage(); err != nil { // only the agent can know what runs out of memory here
		return nil, err
	}
	// What decoding a setup needs is made at the first one.
	_, err = parseGuestSetup(fmt.Appendf(nil, `{"version":%d,"entropy":"%0*d","network":{},"files":{"":""}}`, GuestVersion, 2*GuestEntropy, 0))
	return g, err
}

// apply makes the machine this sandbox.
func (s GuestSetup) apply(g *guest) error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"reseeding the kernel's random generator", s.reseed},
		{"setting the clock", s.setClock},
		{"setting the host name", func() error { return unix.Sethostname([]byte(s.Hostname)) }},
		{"attaching the network", s.attachNetwork},
		{"limiting processes", s.limitProcesses},
		{"making the roots", func() error { return s.makeRoots(g.disks) }},
		{"confining the agent", func() error { return confine(g.filter) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// mountKernel mounts what the guest's own kernel shows, in the initramfs.
func mountKernel() error {
	for _, m := range []struct{ dir, kind string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	return nil
}

// loadModules loads the modules of a directory and removes them: the initramfs is memory.
func loadModules(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing the kernel modules: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the kernel module %s: %w", path, err)
		}
		err = unix.FinitModule(fd, "", 0)
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading the kernel module %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// portTimeout is how long the kernel may take to find its devices.
const portTimeout = 10 * time.Second

// openPort opens a virtual serial port by name.
func openPort(name string) (*os.File, error) {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, path := range names {
			content, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(content)) != name {
				continue
			}
			device := filepath.Join("/dev", filepath.Base(filepath.Dir(path)))
			fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				return nil, fmt.Errorf("opening %s: %w", device, err)
			}
			return os.NewFile(uintptr(fd), device), nil
		}
		if time.Since(began) > portTimeout {
			return nil, fmt.Errorf("no virtual serial port is named %q", name)
		}
	}
}

func readGuestSetup(port *os.File) (GuestSetup, error) {
	typ, payload, err := frame.Read(port, make([]byte, maxGuestSetup))
	if err != nil {
		return GuestSetup{}, fmt.Errorf("waiting for the setup: %w", err)
	}
	if typ != frameRequest {
		return GuestSetup{}, fmt.Errorf("%w: a frame of type %d instead of a setup", frame.ErrProtocol, typ)
	}
	return parseGuestSetup(payload)
}

// awaitHangUp returns when the executor has closed the connection. Without it the machine might be gone before the
// executor has read why.
func awaitHangUp(port *os.File) error {
	_, err := port.Read(make([]byte, 1))
	return err
}
