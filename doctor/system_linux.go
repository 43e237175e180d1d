package doctor

import (
	"errors"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/config"
)

// runnerUser is the user that GitLab Runner's packages make.
const runnerUser = "gitlab-runner"

// unsynchronised is TIME_ERROR of adjtimex(2).
const unsynchronised = 5

// checkClock asks the kernel whether something keeps its clock right: certificates and job tokens need it.
func checkClock(r *report) {
	var state unix.Timex
	clock, err := unix.Adjtimex(&state)
	now := time.Now().UTC().Format(time.RFC3339)
	switch {
	case err != nil:
		r.info("clock", "%s; its state cannot be read: %v", now, err)
	case clock == unsynchronised:
		r.warn("clock", "run a time service, systemd-timesyncd or chrony; a virtual machine may have it from its host",
			"%s, and nothing keeps it right", now)
	default:
		r.ok("clock", "%s, synchronised", now)
	}
}

// checkGroup looks whether GitLab Runner's user may use the service's socket.
func checkGroup(r *report, cfg *config.Config) {
	const check = "runner"
	runner, err := user.Lookup(runnerUser)
	if err != nil {
		r.info(check, "there is no user %s; a runner that runs as root may use the service", runnerUser)
		return
	}
	group := cfg.Group
	if group == "" {
		group = runnerUser
	}
	members, err := user.LookupGroup(group)
	var unknown user.UnknownGroupError
	switch {
	case errors.As(err, &unknown):
		r.warn(check, "make it with: groupadd "+group+"; usermod -aG "+group+" "+runnerUser,
			"the service's group %s does not exist: only root may use the service", group)
		return
	case err != nil:
		r.warn(check, "check /etc/group", "group %s: %v", group, err)
		return
	}
	ids, err := runner.GroupIds()
	if err != nil || !slices.Contains(ids, members.Gid) {
		r.warn(check, "add it with: usermod -aG "+group+" "+runnerUser+", and restart GitLab Runner",
			"user %s is not in group %s: it may not use the service", runnerUser, group)
		return
	}
	r.ok(check, "user %s is in group %s%s", runnerUser, group, runnerProcesses())
}

// checkSockets looks whether the sockets of runner classes can be made and used.
func checkSockets(r *report, cfg *config.Config) {
	for _, s := range cfg.Sockets {
		check := "socket of class " + s.RunnerClass
		if _, err := user.LookupGroup(s.Group); err != nil {
			r.fail(check, "make the group: groupadd "+s.Group+", and add the user of that class's gitlab-runner",
				"the service cannot start: %v", err)
			continue
		}
		if s.Group == cfg.Group {
			r.warn(check, "give it a group of its own, and its gitlab-runner a user of its own",
				"its group %s is that of the service's own socket: whoever may use one may use the other, and have this class", s.Group)
			continue
		}
		info, err := os.Lstat(s.Path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			r.info(check, "%s, for the group %s, is made when the service starts", s.Path, s.Group)
		case err != nil:
			r.fail(check, "name another path", "%v", err)
		case info.Mode().Type() != os.ModeSocket:
			r.fail(check, "remove it, or name another path", "%s is no socket: the service cannot start", s.Path)
		default:
			r.ok(check, "%s, for the group %s", s.Path, s.Group)
		}
	}
}

// runnerProcesses reports whether a gitlab-runner is running at all.
func runnerProcesses() string {
	names, _ := os.ReadDir("/proc")
	for _, name := range names {
		comm, err := os.ReadFile("/proc/" + name.Name() + "/comm")
		if err == nil && strings.TrimSpace(string(comm)) == "gitlab-runner" {
			return ", and a runner is running"
		}
	}
	return ""
}
