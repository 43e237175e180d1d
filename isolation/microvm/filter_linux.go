package microvm

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation/seccomp"
)

// Offsets in struct seccomp_data, of seccomp(2).
const (
	numberOffset   = 0
	archOffset     = 4
	argumentOffset = 16
)

// x32Bit marks the calls of the x32 interface, which no kernel of a distribution offers.
const x32Bit = 0x40000000

// newFilter compiles the seccomp profile of the process level for guests, which have no OCI runtime to do it, for programs
// of 64 and of 32 bits.
func newFilter() ([]byte, error) {
	profile, err := seccomp.Profile()
	if err != nil {
		return nil, err
	}
	var program []bpf.Instruction
	for _, a := range []*arch.Info{arch.X86_64, arch.I386} {
		part, err := compileFor(a, profile)
		if err != nil {
			return nil, err
		}
		program = append(program,
			bpf.LoadAbsolute{Off: archOffset, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(a.ID), SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(part))})
		program = append(program, part...)
	}
	program = append(program, deny(profile.DefaultErrnoRet))
	return assemble(program)
}

// compileFor returns the program's part for one architecture. Rules are tried in their order; whatever none matches
// gets the profile's default.
func compileFor(a *arch.Info, profile *specs.LinuxSeccomp) ([]bpf.Instruction, error) {
	part := []bpf.Instruction{bpf.LoadAbsolute{Off: numberOffset, Size: 4}}
	if a == arch.X86_64 {
		part = append(part, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32Bit, SkipFalse: 1}, deny(nil))
	}
	for _, rule := range profile.Syscalls {
		verdict, err := verdictOf(rule)
		if err != nil {
			return nil, err
		}
		for _, name := range rule.Names {
			number, ok := a.SyscallNames[name]
			if !ok {
				continue // a call of other architectures, or newer than the table: denied by default
			}
			body, err := conditions(rule.Args, verdict)
			if err != nil {
				return nil, fmt.Errorf("the seccomp profile's rule for %s: %w", name, err)
			}
			part = append(part, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(number), SkipFalse: uint8(len(body))})
			part = append(part, body...)
		}
	}
	return append(part, deny(profile.DefaultErrnoRet)), nil
}

// conditions returns the verdict if all arguments are as the rule wants them. Otherwise the next rule's turn begins,
// with the call's number loaded again.
func conditions(arguments []specs.LinuxSeccompArg, verdict bpf.Instruction) ([]bpf.Instruction, error) {
	if len(arguments) == 0 {
		return []bpf.Instruction{verdict}, nil
	}
	// Backwards, so that the distance to the end is known: verdict, jump over the reload, reload.
	body := []bpf.Instruction{verdict, bpf.LoadAbsolute{Off: numberOffset, Size: 4}}
	for i := len(arguments) - 1; i >= 0; i-- {
		test, err := condition(arguments[i], len(body)-1)
		if err != nil {
			return nil, err
		}
		body = append(test, body...)
	}
	return body, nil
}

// condition tests one argument, both halves of it, and skips what follows it when the test fails.
func condition(argument specs.LinuxSeccompArg, follows int) ([]bpf.Instruction, error) {
	offset := argumentOffset + 8*uint32(argument.Index)
	low, high := bpf.LoadAbsolute{Off: offset, Size: 4}, bpf.LoadAbsolute{Off: offset + 4, Size: 4}
	fail, end := uint8(follows), uint8(follows+3) // from the last of the six instructions, and from the third
	want := argument.Value
	switch argument.Op {
	case specs.OpEqualTo, specs.OpMaskedEqual:
		mask := ^uint64(0)
		if argument.Op == specs.OpMaskedEqual {
			mask, want = argument.Value, argument.ValueTwo
		}
		return []bpf.Instruction{ // both halves must be equal
			low, and(uint32(mask)), bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(want), SkipFalse: end},
			high, and(uint32(mask >> 32)), bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(want >> 32), SkipFalse: fail},
		}, nil
	case specs.OpNotEqual:
		return []bpf.Instruction{ // either half must differ
			low, and(^uint32(0)), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(want), SkipTrue: 3},
			high, and(^uint32(0)), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(want >> 32), SkipFalse: fail},
		}, nil
	case specs.OpLessThan, specs.OpGreaterThan:
		if want > math.MaxUint32 {
			return nil, fmt.Errorf("comparison %s with %d, which has more than 32 bits", argument.Op, want)
		}
		test := bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(want), SkipFalse: fail}
		upper := bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipFalse: end} // no bits there, or it is not less
		if argument.Op == specs.OpGreaterThan {
			test.Cond = bpf.JumpGreaterThan
			upper.SkipFalse = 3 // any bit there, and it is greater
		}
		return []bpf.Instruction{high, and(^uint32(0)), upper, low, and(^uint32(0)), test}, nil
	default:
		return nil, fmt.Errorf("unknown comparison %s", argument.Op)
	}
}

func and(mask uint32) bpf.Instruction { return bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask} }

// verdictOf is the instruction for what a rule wants done.
func verdictOf(rule specs.LinuxSyscall) (bpf.Instruction, error) {
	switch rule.Action {
	case specs.ActAllow:
		return bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}, nil
	case specs.ActErrno:
		return deny(rule.ErrnoRet), nil
	default:
		return nil, fmt.Errorf("the seccomp profile has an unknown action %s", rule.Action)
	}
}

// deny makes a call fail, with EPERM unless an error number is given.
func deny(number *uint) bpf.Instruction {
	value := uint(unix.EPERM)
	if number != nil {
		value = *number
	}
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(value)}
}

// assemble returns the program as the kernel takes it, an array of struct sock_filter.
func assemble(program []bpf.Instruction) ([]byte, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assembling the seccomp filter: %w", err)
	}
	var code []byte
	for _, i := range raw {
		code = binary.LittleEndian.AppendUint16(code, i.Op)
		code = append(code, i.Jt, i.Jf)
		code = binary.LittleEndian.AppendUint32(code, i.K)
	}
	return code, nil
}
