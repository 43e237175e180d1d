package oci

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation/layout"
	"github.com/airlock-ci/airlock/isolation/seccomp"
)

// profile is what every sandbox is confined to, made once.
type profile struct {
	capabilities []string
	seccomp      *specs.LinuxSeccomp
	rlimits      []specs.POSIXRlimit
}

func newProfile() (profile, error) {
	filter, err := seccomp.Profile()
	if err != nil {
		return profile{}, err
	}
	limits, err := rlimits()
	if err != nil {
		return profile{}, err
	}
	return profile{capabilities: layout.Capabilities, seccomp: filter, rlimits: limits}, nil
}

// rlimits are the limits of each process: the open files that systemd grants services at most, with more than its
// 1024 to begin with, because parallel builds need them; no core files. Our own limit cannot be exceeded.
func rlimits() ([]specs.POSIXRlimit, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return nil, fmt.Errorf("reading the limit of open files: %w", err)
	}
	return []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: min(65536, own.Max), Hard: min(524288, own.Max)},
		{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
	}, nil
}
