// Package probes tries to get out of a sandbox, in the ways that escapes from containers have used: each probe is
// one attempt that must fail in a job. The command cmd/probes makes them all and prints a Result for each, one JSON
// object a line; a runtime's tests run it as root in a job, and once in a privileged container, where most must
// succeed, or the probes themselves are broken.
//
// No probe harms the host even where it succeeds: files are opened for writing but written only their own content,
// and calls that act at once (reboot, kexec, module loading) get arguments that the kernel refuses after it
// has checked the caller's rights, so that EINVAL tells the privileged from the rest.
package probes

// Result is the outcome of one probe.
type Result struct {
	Name string `json:"name"`
	// Blocked says that the attempt failed.
	Blocked bool `json:"blocked"`
	// Detail is the error that blocked it, or what it reached.
	Detail string `json:"detail"`
}

// Targets are things on the host that the test set up for the probes to find.
type Targets struct {
	// Socket is the path of a listening unix socket.
	Socket string
	// Abstract is the name of a listening abstract unix socket, without its "@".
	Abstract string
	// Address is a listening TCP address, "host:port".
	Address string
}
