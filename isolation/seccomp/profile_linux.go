package seccomp

import (
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation/layout"
)

// Profile returns Docker's default profile for layout.Capabilities and this kernel, but for socket(2). That is narrower,
// because every user of a sandbox has NET_RAW for the sake of ping: of what this capability opens only raw ICMP sockets are
// left, no packet sockets and no raw ones of other protocols. Programs of 32 bits that make sockets by socketcall(2), whose
// arguments no filter can see, are not held to it.
func Profile() (*specs.LinuxSeccomp, error) {
	like := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: layout.Capabilities}}}
	profile, err := seccomp.GetDefaultProfile(like)
	if err != nil {
		return nil, fmt.Errorf("reading the seccomp profile: %w", err)
	}
	profile.Syscalls = slices.DeleteFunc(profile.Syscalls, func(rule specs.LinuxSyscall) bool {
		return slices.Equal(rule.Names, []string{socketCall})
	})
	profile.Syscalls = append(profile.Syscalls, socketRules()...)
	return profile, nil
}

// socketCall makes a socket; its arguments are the family, the type with flags, and the protocol.
const (
	socketCall = "socket"
	// typeMask leaves the type of its flags: SOCK_TYPE_MASK of the kernel's include/linux/net.h.
	typeMask = 0xf
)

// socketRules allow what needs no capability, and ping.
func socketRules() []specs.LinuxSyscall {
	family := func(number uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: 0, Value: number, Op: specs.OpEqualTo}
	}
	kind := func(number uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: 1, Value: typeMask, ValueTwo: number, Op: specs.OpMaskedEqual}
	}
	protocol := func(number uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: 2, Value: number, Op: specs.OpEqualTo}
	}
	var rules []specs.LinuxSyscall
	allow := func(arguments ...specs.LinuxSeccompArg) {
		rules = append(rules, specs.LinuxSyscall{Names: []string{socketCall}, Action: specs.ActAllow, Args: arguments})
	}
	allow(family(unix.AF_UNIX))
	allow(family(unix.AF_NETLINK))
	for _, internet := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, number := range []uint64{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET, unix.SOCK_DCCP} {
			allow(family(internet), kind(number))
		}
	}
	allow(family(unix.AF_INET), kind(unix.SOCK_RAW), protocol(unix.IPPROTO_ICMP))
	allow(family(unix.AF_INET6), kind(unix.SOCK_RAW), protocol(unix.IPPROTO_ICMPV6))
	return rules
}
