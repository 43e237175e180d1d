package oci

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	runc "github.com/containerd/go-runc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// program is an OCI runtime, as far as its command line differs from those of others.
type program struct {
	name string // the base name
	path string
	// gvisor says that it is runsc: a kernel of its own, written in Go, runs the sandbox's programs.
	gvisor bool
	// agentArguments tell the agent where its connection is.
	agentArguments []string
}

// gvisorName is the name of gVisor's OCI runtime.
const gvisorName = "runsc"

// findProgram returns the OCI runtime of a name or path.
func findProgram(name string) (program, error) {
	candidates := []string{name}
	if name == "" {
		candidates = []string{"crun", "runc"} // crun makes a container about six times faster
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil && filepath.IsAbs(path) {
			p := program{name: filepath.Base(path), path: path}
			if p.gvisor = p.name == gvisorName; p.gvisor {
				p.agentArguments = []string{"-fd", "0"}
			}
			return p, nil
		}
	}
	pkg := "crun"
	if filepath.Base(name) == gvisorName {
		pkg = gvisorName
	}
	return program{}, fault.WithRemedy(
		fault.Adminf("no OCI runtime: %s is not an executable: %w", strings.Join(candidates, " or "), isolation.ErrUnsupported),
		"install the package "+pkg+", or set runtime to the absolute path of crun, runc or runsc")
}

// hostLimits are the limits of the sandbox's cgroup. gVisor's own threads count there, and on some platforms one for each
// process that it runs and each of its own that has run it. Where they are used up, the whole sandbox ends.
func (p program) hostLimits(limits isolation.Limits) isolation.Limits {
	if p.gvisor && limits.PIDs > 0 {
		limits.PIDs = 2*limits.PIDs + gvisorThreads
	}
	return limits
}

// gvisorThreads are many more than gVisor has been seen to have without a job's process.
const gvisorThreads = 1024

// gvisorMounts are what other OCI runtimes' containers have without a mount:
//   - gVisor opens no device node on a read-only mount for writing, so the helper root's /dev is a mount of its own;
//   - it would put a tmpfs over an empty /tmp. That counts as memory, and the scratch is where the job's files belong.
func gvisorMounts(spec isolation.Spec) []specs.Mount {
	mounts := []specs.Mount{{
		Destination: "/tmp", Type: "bind", Source: filepath.Join(scratch(spec.ScratchDir).rootfs(), "tmp"),
		Options: []string{"bind", "nosuid", "nodev"},
	}}
	if spec.Helper != nil {
		mounts = append(mounts, specs.Mount{Destination: isolation.HelperPath + "/dev", Type: "devtmpfs", Source: "devtmpfs", Options: []string{"nosuid"}})
	}
	return mounts
}

// run starts a sandbox's container, whose first process inherits one end of a connection, and returns when it runs.
func (p program) run(ctx context.Context, stateDir, bundle, log string, spec isolation.Spec, connection *os.File) error {
	command := &runc.Runc{Command: p.path, Root: stateDir, Log: log, LogFormat: runc.JSON, Setpgid: true}
	options := &runc.CreateOpts{Detach: true, ExtraFiles: []*os.File{connection}}
	if p.gvisor {
		// A state directory for each sandbox: runsc keeps files in it whose names are not the sandbox's alone.
		command.Root = filepath.Join(stateDir, spec.ID)
		command.ExtraArgs = gvisorFlags(spec.Network)
		// No gVisor passes on other descriptors than these before 2023, and none as many as --preserve-fds says.
		options = &runc.CreateOpts{Detach: true, IO: onStdin{connection}}
	}
	_, err := command.Run(ctx, spec.ID, bundle, options)
	return err
}

// gvisorFlags are what runsc is not told by the container's specification. Raw sockets are those of its own network stack,
// which takes the address over from the namespace's interface; without an interface there is nothing to take. The seccomp
// profile stays out (--oci-seccomp): calls that gVisor's table lacks would end with EPERM, which C libraries take for an
// answer, and not with ENOSYS, by which they try the older call.
func gvisorFlags(network isolation.Network) []string {
	flags := []string{"--net-raw", "--network=sandbox"}
	if network.Address == "" {
		flags[len(flags)-1] = "--network=none"
	}
	return flags
}

// onlyNamespace is what a gVisor before August 2024 says of every network namespace on Linux 6.11 and later.
const onlyNamespace = "cannot run with network enabled in root network namespace"

// explain says what to do about a runtime's failure, where it is known.
func (p program) explain(err error) error {
	if !p.gvisor || !strings.Contains(err.Error(), onlyNamespace) {
		return err
	}
	return fault.WithRemedy(fault.Systemf("this %s cannot give a sandbox a network on this kernel: %w", p.name, err),
		`install a gVisor of August 2024 or later, use crun, or set network_mode = "none"`)
}

// onStdin gives a container a connection as its standard input, and no output.
type onStdin struct{ connection *os.File }

func (onStdin) Close() error            { return nil }
func (onStdin) Stdin() io.WriteCloser   { return nil }
func (onStdin) Stdout() io.ReadCloser   { return nil }
func (onStdin) Stderr() io.ReadCloser   { return nil }
func (s onStdin) Set(command *exec.Cmd) { command.Stdin = s.connection }
