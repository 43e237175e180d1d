package microvm

import (
	"encoding/binary"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// TestFilter runs the filter's program on calls.
func TestFilter(t *testing.T) {
	code, err := newFilter()
	require.NoError(t, err)
	const longest = 4096 // BPF_MAXINSNS
	require.LessOrEqual(t, len(code)/8, longest)
	var program []bpf.Instruction
	for i := 0; i < len(code); i += 8 {
		raw := bpf.RawInstruction{
			Op: binary.LittleEndian.Uint16(code[i:]), Jt: code[i+2], Jf: code[i+3], K: binary.LittleEndian.Uint32(code[i+4:]),
		}
		program = append(program, raw.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	require.NoError(t, err)

	const allow, deny = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO
	for _, test := range []struct {
		name      string
		arch      *arch.Info
		arguments []uint64
		want      uint32
	}{
		{"read", arch.X86_64, nil, allow},
		{"execve", arch.X86_64, nil, allow},
		{"getrandom", arch.X86_64, nil, allow},
		{"seccomp", arch.X86_64, nil, allow},
		{"keyctl", arch.X86_64, nil, deny | uint32(unix.EPERM)},
		{"bpf", arch.X86_64, nil, deny | uint32(unix.EPERM)},
		{"mount", arch.X86_64, nil, deny | uint32(unix.EPERM)},
		{"io_uring_setup", arch.X86_64, nil, deny | uint32(unix.EPERM)},
		{"clone3", arch.X86_64, nil, deny | uint32(unix.ENOSYS)},
		{"clone", arch.X86_64, []uint64{unix.CLONE_VM | unix.CLONE_VFORK}, allow},
		{"clone", arch.X86_64, []uint64{unix.CLONE_NEWUSER}, deny | uint32(unix.EPERM)},
		{"clone", arch.X86_64, []uint64{1<<40 | unix.CLONE_NEWNS}, deny | uint32(unix.EPERM)},
		{"personality", arch.X86_64, []uint64{0}, allow},
		{"personality", arch.X86_64, []uint64{0xffffffff}, allow},
		{"personality", arch.X86_64, []uint64{1 << 32}, deny | uint32(unix.EPERM)},
		{"personality", arch.X86_64, []uint64{4}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC}, allow},
		{"socket", arch.X86_64, []uint64{unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, unix.IPPROTO_UDP}, allow},
		{"socket", arch.X86_64, []uint64{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, allow},
		{"socket", arch.X86_64, []uint64{unix.AF_INET, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP}, allow},
		{"socket", arch.X86_64, []uint64{unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6}, allow},
		{"socket", arch.X86_64, []uint64{unix.AF_UNIX, unix.SOCK_STREAM}, allow},
		{"socket", arch.X86_64, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, allow},
		{"socket", arch.X86_64, []uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_INET, 1<<32 | unix.SOCK_RAW, unix.IPPROTO_UDP}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_INET, unix.SOCK_PACKET}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_PACKET, unix.SOCK_RAW}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_PACKET, unix.SOCK_DGRAM}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{1<<32 | unix.AF_PACKET, unix.SOCK_RAW}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_LLC, unix.SOCK_DGRAM}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_XDP, unix.SOCK_RAW}, deny | uint32(unix.EPERM)},
		{"socket", arch.I386, []uint64{unix.AF_PACKET, unix.SOCK_RAW}, deny | uint32(unix.EPERM)},
		{"socket", arch.X86_64, []uint64{unix.AF_VSOCK}, deny | uint32(unix.EPERM)},
		{"read", arch.I386, nil, allow},
		{"keyctl", arch.I386, nil, deny | uint32(unix.EPERM)},
		{"read", arch.ARM, nil, deny | uint32(unix.EPERM)},
	} {
		number, ok := test.arch.SyscallNames[test.name]
		require.True(t, ok, test.name)
		require.Equal(t, test.want, verdictFor(t, vm, uint32(number), uint32(test.arch.ID), test.arguments), "%s %s %v", test.arch.Name, test.name, test.arguments)
	}
	require.Equal(t, deny|uint32(unix.EPERM), verdictFor(t, vm, x32Bit, uint32(arch.X86_64.ID), nil), "x32")
}

// verdictFor lays a struct seccomp_data out. The package's machine loads in network order, the kernel's in the host's.
func verdictFor(t *testing.T, vm *bpf.VM, number, architecture uint32, arguments []uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[numberOffset:], number)
	binary.BigEndian.PutUint32(data[archOffset:], architecture)
	for i, argument := range arguments {
		binary.BigEndian.PutUint32(data[argumentOffset+8*i:], uint32(argument))
		binary.BigEndian.PutUint32(data[argumentOffset+8*i+4:], uint32(argument>>32))
	}
	verdict, err := vm.Run(data)
	require.NoError(t, err)
	return uint32(verdict)
}
