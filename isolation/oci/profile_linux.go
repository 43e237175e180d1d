package oci

import (
	"fmt"
	"os"
	"strconv"
	"strings"

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

// rlimits are layout.Rlimits, as far as this process may grant them: without CAP_SYS_RESOURCE nothing beyond its own.
func rlimits() ([]specs.POSIXRlimit, error) {
	unbound, err := mayRaiseLimits()
	if err != nil {
		return nil, err
	}
	var all []specs.POSIXRlimit
	for _, limit := range layout.Rlimits {
		hard := limit.Hard
		if limit.Type == "RLIMIT_NOFILE" {
			hard = min(hard, mostOpenFiles())
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(rlimitNumbers[limit.Type], &own); err != nil {
			return nil, fmt.Errorf("reading %s: %w", limit.Type, err)
		}
		if !unbound {
			hard = min(hard, own.Max)
		}
		all = append(all, specs.POSIXRlimit{Type: limit.Type, Soft: min(limit.Soft, hard), Hard: hard})
	}
	return all, nil
}

var rlimitNumbers = map[string]int{
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_NPROC": unix.RLIMIT_NPROC,
}

// mayRaiseLimits reports whether this process, and so the OCI runtime, has CAP_SYS_RESOURCE.
func mayRaiseLimits() (bool, error) {
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &have[0]); err != nil {
		return false, fmt.Errorf("reading the capabilities: %w", err)
	}
	return have[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0, nil
}

// mostOpenFiles is the kernel's own bound of RLIMIT_NOFILE.
func mostOpenFiles() uint64 {
	content, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return layout.Unlimited
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64)
	if err != nil {
		return layout.Unlimited
	}
	return most
}
