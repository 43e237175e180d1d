package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// guestCgroups is where the guest's cgroups are mounted while the roots are made, and jobCgroup the one in it of
// agent and job.
const (
	guestCgroups = "/sys/fs/cgroup"
	jobCgroup    = guestCgroups + "/job"
)

// enterCgroup puts the agent, and with it all that it will start, into a cgroup that bounds the number of
// processes; memory and CPUs are the machine's own. What is mounted for the job later shows that cgroup alone.
func (s GuestSetup) enterCgroup() error {
	if err := unix.Mount("cgroup2", guestCgroups, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting the cgroups: %w", err)
	}
	limit := "max"
	if s.PIDs > 0 {
		limit = strconv.FormatInt(s.PIDs, 10)
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(guestCgroups, "cgroup.subtree_control"), []byte("+pids"), 0),
		os.Mkdir(jobCgroup, 0o755))
	if err == nil {
		err = errors.Join(
			os.WriteFile(filepath.Join(jobCgroup, "pids.max"), []byte(limit), 0),
			os.WriteFile(filepath.Join(jobCgroup, "cgroup.procs"), []byte("0"), 0))
	}
	if err != nil {
		return err
	}
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}
