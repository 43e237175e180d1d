package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
)

// GuestVersion is the version of what executor and guest say to each other before they speak the protocol.
const GuestVersion = 1

const (
	// GuestPort is the name of the virtual serial port that the agent of a guest looks for.
	GuestPort = "airlock"
	// GuestImage is the serial number of the disk with the image's root.
	GuestImage = "image"
	// GuestHelper is that of the helper root's disk.
	GuestHelper = "helper"
	// GuestScratch is that of the scratch.
	GuestScratch = "scratch"
	// GuestModules is the directory of the initramfs whose kernel modules are loaded, in the order of their names.
	GuestModules = "/modules"
	// GuestFilter is the file of the initramfs with the seccomp(2) filter of agent and job, an array of struct
	// sock_filter.
	GuestFilter = "/filter"
	// GuestArgument is how the initramfs's agent executes itself for the second time.
	GuestArgument = "guest"
	// WarmUpArgument is how it executes itself for a warm-up.
	WarmUpArgument = "warm-up"
	// GuestEntropy is how many random bytes a guest is given, at least.
	GuestEntropy = 64

	// maxGuestSetup bounds a GuestSetup on the wire, in bytes.
	maxGuestSetup = 1 << 20
)

// GuestSetup is what the agent of a guest is told before anything else: who it is, and what to put where. It is the
// same for a guest that has just booted and for one that was restored from a template, in which nothing of it may
// be known.
type GuestSetup struct {
	Version int `json:"version"`
	// WarmUp says that this is one: see WarmUp, which sets it.
	WarmUp bool `json:"warm_up,omitempty"`
	// Entropy are fresh random bytes of the host's, GuestEntropy at least.
	Entropy []byte `json:"entropy"`
	// Now is the host's clock, in nanoseconds since 1970.
	Now int64 `json:"now"`
	// Hostname may be empty. MachineID is machine-id(5)'s.
	Hostname  string `json:"hostname"`
	MachineID string `json:"machine_id"`
	// Network is nil for a guest with loopback alone.
	Network *GuestNetwork `json:"network,omitempty"`
	// Helper says that the helper disk holds a helper root.
	Helper bool `json:"helper"`
	// Files are written to both roots: contents by relative paths.
	Files map[string]string `json:"files"`
	// PIDs bounds the agent's and the job's processes and threads; 0 does not.
	PIDs int64 `json:"pids,omitempty"`
}

// GuestNetwork is the one interface of a guest.
type GuestNetwork struct {
	// MAC is "02:00:00:00:00:01", Address "172.29.0.2/16", Gateway "172.29.0.1".
	MAC     string `json:"mac"`
	Address string `json:"address"`
	Gateway string `json:"gateway"`
	// MTU is in bytes; 0 leaves the kernel's, which is Ethernet's 1500.
	MTU int `json:"mtu,omitempty"`
}

// DeadlineConn is a connection whose reads and writes can be bounded in time, a net.Conn for example.
type DeadlineConn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// AwaitGuest returns when the guest at the other end of conn has booted and waits for TellGuest.
func AwaitGuest(ctx context.Context, conn DeadlineConn) error {
	return withDeadline(ctx, conn, "waiting for the guest to boot", func() error { return readGreeting(conn) })
}

// readGreeting reads what the guest says when it is ready, and when it has heard its setup.
func readGreeting(conn io.Reader) error {
	got, err := readReply(conn)
	switch {
	case err != nil:
		return err
	case got.Hello == nil:
		return fmt.Errorf("%w: the guest does not greet", frame.ErrProtocol)
	case got.Hello.Version != GuestVersion:
		return fault.WithRemedy(
			fault.Adminf("the guest's agent speaks version %d, the executor %d", got.Hello.Version, GuestVersion),
			"install airlock-agent and airlock-executor of the same release")
	}
	return nil
}

// TellGuest sends a booted or restored guest what it is to become, and returns when the guest has heard it: it lives.
// AwaitSetup follows.
func TellGuest(ctx context.Context, conn DeadlineConn, setup GuestSetup) error {
	setup.Version = GuestVersion
	payload, err := json.Marshal(setup)
	if err != nil {
		return fmt.Errorf("encoding the guest's setup: %w", err)
	}
	if len(payload) > maxGuestSetup {
		return fault.Systemf("the guest's setup has %d bytes, more than the %d that are allowed", len(payload), maxGuestSetup)
	}
	return withDeadline(ctx, conn, "telling the guest who it is", func() error {
		if err := frame.Write(conn, frameRequest, payload); err != nil {
			return err
		}
		return readGreeting(conn)
	})
}

// AwaitSetup returns when the guest is what TellGuest told it; its agent answers Connect from then on. It fails with
// the class of what the guest says.
func AwaitSetup(ctx context.Context, conn DeadlineConn) error {
	return withDeadline(ctx, conn, "setting up the guest", func() error {
		_, err := readReply(conn)
		return err
	})
}

// withDeadline makes an exchange end with the context.
func withDeadline(ctx context.Context, conn DeadlineConn, what string, exchange func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := exchange()
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// parseGuestSetup is the guest's half of TellGuest.
func parseGuestSetup(payload []byte) (GuestSetup, error) {
	var setup GuestSetup
	if err := json.Unmarshal(payload, &setup); err != nil {
		return setup, fmt.Errorf("%w: a setup that cannot be read: %w", frame.ErrProtocol, err)
	}
	if setup.Version != GuestVersion {
		return setup, fmt.Errorf("%w: a setup of version %d, this agent knows %d", frame.ErrProtocol, setup.Version, GuestVersion)
	}
	if len(setup.Entropy) < GuestEntropy {
		return setup, fmt.Errorf("%w: %d bytes of entropy are not enough", frame.ErrProtocol, len(setup.Entropy))
	}
	return setup, nil
}
