package doctor

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/ownthread"
)

// checkHost makes the checks of a Linux host.
func checkHost(ctx context.Context, r *report, options Options, cfg *config.Config) {
	root := os.Geteuid() == 0
	checkRoot(r, root)
	checkKernel(r)
	checkSeccomp(r)
	checkCorePattern(r, "/proc/sys/kernel/core_pattern")
	checkRaisedLimits(r)
	checkCgroups(r)
	checkRuntime(ctx, r, cfg.Runtime)
	checkHypervisor(ctx, r, options, cfg)

	checkStorage(r, cfg)
	checkScratch(r, cfg)
	if root {
		checkOverlay(r, cfg)
		checkLinks(r)
		checkNftables(r)
		checkForwardPolicy(ctx, r, cfg)
	}
	checkForwarding(r, cfg)
	checkConnections(r, cfg)
	checkDNS(r, cfg)
	checkClock(r)
	checkGroup(r, cfg)
	checkSockets(r, cfg)
}

func checkRoot(r *report, root bool) {
	if root {
		r.ok("user", "root")
		return
	}
	r.warn("user", "run airlock doctor as root to have every check",
		"user id %d: the checks of overlayfs, links, nftables and the forward policy are left out", os.Geteuid())
}

// inNamespaces runs try in new namespaces (CLONE_NEW* flags), which end with all that try made in them when it returns.
func inNamespaces(flags int, try func() error) error {
	result := make(chan error, 1)
	ownthread.Go(func() {
		if err := unix.Unshare(flags); err != nil {
			result <- os.NewSyscallError("unshare", err)
			return
		}
		if flags&unix.CLONE_NEWNS != 0 {
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				result <- os.NewSyscallError("making the mount namespace private", err)
				return
			}
		}
		result <- try()
	})
	return <-result
}
