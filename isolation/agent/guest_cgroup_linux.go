package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// guestCgroups is where the guest's cgroups are mounted in the initramfs, and jobCgroup the one of agent and job.
const (
	guestCgroups = "/sys/fs/cgroup"
	jobCgroup    = guestCgroups + "/job"
)

// enterCgroup puts the agent, and with it all that it will start, into a cgroup in which processes are counted. What
// is mounted for the job later shows that cgroup alone.
func enterCgroup() error {
	if err := unix.Mount("cgroup2", guestCgroups, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting the cgroups: %w", err)
	}
	err := errors.Join(
		os.WriteFile(guestCgroups+"/cgroup.subtree_control", []byte("+pids"), 0),
		os.Mkdir(jobCgroup, 0o755))
	if err == nil {
		err = os.WriteFile(jobCgroup+"/cgroup.procs", []byte("0"), 0)
	}
	if err != nil {
		return err
	}
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}

// limitProcesses bounds the number of processes; memory and CPUs are the machine's own.
func (s GuestSetup) limitProcesses() error {
	if s.PIDs <= 0 {
		return nil
	}
	return os.WriteFile(jobCgroup+"/pids.max", []byte(strconv.FormatInt(s.PIDs, 10)), 0)
}
