package doctor

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/testing/standin"
)

// find returns the finding of a check.
func find(t *testing.T, findings []Finding, check string) Finding {
	t.Helper()
	i := slices.IndexFunc(findings, func(f Finding) bool { return f.Check == check })
	require.GreaterOrEqual(t, i, 0, "no finding about %s in %v", check, findings)
	return findings[i]
}

// in runs one check in throwaway namespaces and returns its finding.
func in(t *testing.T, flags int, prepare func() error, check func(r *report)) Finding {
	t.Helper()
	r := &report{}
	require.NoError(t, inNamespaces(flags, func() error {
		if err := prepare(); err != nil {
			return err
		}
		check(r)
		return nil
	}))
	require.Len(t, r.findings, 1)
	return r.findings[0]
}

// replace puts a file with another content over path, in this thread's mount namespace.
func replace(t *testing.T, path, content string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	return unix.Mount(file, target, "", unix.MS_BIND, "")
}

func TestThisHostIsExaminedAndLeftAsItWas(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the test needs root")
	before := worldOf(t)
	findings := Run(t.Context(), Options{Socket: filepath.Join(t.TempDir(), "none.sock"), BinDir: t.TempDir(), Version: "v1"})
	require.Equal(t, before, worldOf(t), "the examination left something behind")

	seen := map[string]bool{}
	for _, f := range findings {
		require.False(t, seen[f.Check], "%s is reported twice", f.Check)
		seen[f.Check] = true
		require.NotEmpty(t, f.Detail, f.Check)
		require.NotContains(t, f.Detail, "\n", f.Check)
		if f.Status == Warn || f.Status == Fail {
			require.NotEmpty(t, f.Remedy, "%s has no remedy", f.Check)
		}
	}
	// What the tests of the other packages rely on anyway.
	for _, check := range []string{"user", "kernel", "seccomp", "cgroups", "runtime", "scratch", "overlayfs", "links", "nftables"} {
		require.Equal(t, OK, find(t, findings, check).Status, "%v", find(t, findings, check))
	}
	require.True(t, Failed(findings), "the other programs are missing")
}

// worldOf is what an examination could leave behind: mounts, links, nftables tables, temporary directories.
func worldOf(t *testing.T) map[string][]string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	links, err := netlink.LinkList()
	require.NoError(t, err)
	conn, err := nftables.New()
	require.NoError(t, err)
	tables, err := conn.ListTables()
	require.NoError(t, err)
	world := map[string][]string{"mounts": keep(strings.Split(string(mounts), "\n"), "airlock-doctor")}
	for _, l := range links {
		world["links"] = append(world["links"], l.Attrs().Name)
	}
	for _, table := range tables {
		world["tables"] = append(world["tables"], table.Name)
	}
	world["links"], world["tables"] = keep(world["links"], "doctor"), keep(world["tables"], "doctor")
	world["files"], err = filepath.Glob(filepath.Join(os.TempDir(), ".airlock-doctor-*"))
	require.NoError(t, err)
	return world
}

func keep(list []string, part string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return !strings.Contains(s, part) })
}

func TestABrokenConfigurationIsAFindingAndNoEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(path, []byte("isolaton = \"process\"\nnetwork_mode = 7\n"), 0o600))
	findings := Run(t.Context(), Options{ConfigPath: path, Socket: filepath.Join(t.TempDir(), "none.sock")})
	f := find(t, findings, "configuration")
	require.Equal(t, Fail, f.Status)
	require.Contains(t, f.Detail, path+":1:1: isolaton: unknown key")
	require.Contains(t, f.Detail, " | ")
	require.Equal(t, OK, find(t, findings, "kernel").Status, "the other checks are made all the same")
}

func TestARuntimeThatIsMissingOrBroken(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	examine := func(configured string) Finding {
		r := &report{}
		checkRuntime(t.Context(), r, configured)
		return r.findings[0]
	}
	require.Equal(t, Fail, examine("").Status)
	require.Contains(t, examine("").Detail, "crun or runc is not installed")

	script := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755))
	}
	script("runc", "echo runc version 1.1.5; echo libseccomp: 2.5.4")
	require.Equal(t, Finding{Check: "runtime", Status: OK, Detail: dir + "/runc, runc version 1.1.5"}, examine(""))
	script("crun", "echo crun version 1.8; echo +SYSTEMD")
	require.Contains(t, examine("").Detail, "was built without seccomp")
	script("crun", "echo no library >&2; exit 127")
	require.Contains(t, examine("").Detail, "does not run: exit status 127: no library")
	require.Equal(t, OK, examine("runc").Status, "the configured one counts")

	require.Contains(t, examine("runsc").Remedy, "apt install runsc")
	script("runsc", "echo runsc version release-20250203.0; echo spec: 1.1.0-rc.1")
	require.Equal(t, Finding{Check: "runtime", Status: OK, Detail: dir + "/runsc, runsc version release-20250203.0 (gVisor)"}, examine("runsc"),
		"gVisor has a seccomp filter of its own, and no word of it in its version")
	require.Equal(t, OK, examine(dir+"/runsc").Status)
}

// TestAGVisorThatIsTooOldForTheKernel: it takes every network namespace for the host's.
func TestAGVisorThatIsTooOldForTheKernel(t *testing.T) {
	for _, c := range []struct {
		version, release string
		status           Status
	}{
		{"runsc version 0.0~20221219.0", "6.18.44", Fail},
		{"runsc version 0.0~20221219.0", "6.11.0-rc1+", Fail},
		{"runsc version release-20240729.0", "7.0.1", Fail},
		{"runsc version 0.0~20221219.0", "6.1.0-56-amd64", OK},
		{"runsc version 0.0~20221219.0", "5.15.0", OK},
		{"runsc version release-20240807.0", "6.18.44", OK},
		{"runsc version VERSION_MISSING", "6.18.44", OK},
	} {
		r := &report{}
		checkGVisor(r, "/usr/bin/runsc", c.version, c.release)
		require.Equal(t, c.status, r.findings[0].Status, "%+v", c)
		require.Equal(t, c.status == Fail, r.findings[0].Remedy != "")
		require.Contains(t, r.findings[0].Detail, c.version)
		require.Equal(t, "gVisor", r.findings[1].Check, "what it cannot do is said in any case")
	}
}

func TestTheOtherPrograms(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", os.Getenv("PATH"))
	examine := func(name string) Finding {
		r := &report{}
		checkBinary(t.Context(), r, Options{BinDir: dir, Version: "v1.2.3"}, name)
		return r.findings[0]
	}
	require.Contains(t, examine("airlock-driver").Detail, "is neither in "+dir+" nor in PATH")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "airlock-agent"), []byte("#!/bin/sh\n"), 0o755))
	require.Contains(t, examine("airlock-agent").Detail, "is not Airlock's airlock-agent")

	buildProgram(t, dir, "airlock-driver", `println = os.Stdout.WriteString; println("airlock-driver v1.2.3\n")`)
	require.Equal(t, OK, examine("airlock-driver").Status)
	buildProgram(t, dir, "airlock-driver", `println = os.Stdout.WriteString; println("airlock-driver v0.9\n")`)
	require.Equal(t, Fail, examine("airlock-driver").Status)
	require.Contains(t, examine("airlock-driver").Detail, "is of version v0.9, airlock of v1.2.3")
}

// buildProgram builds a program that passes for one of Airlock's: its main package has the right path.
func buildProgram(t *testing.T, dir, name, body string) {
	t.Helper()
	module := t.TempDir()
	cmd := filepath.Join(module, "cmd", name)
	require.NoError(t, os.MkdirAll(cmd, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(module, "go.mod"), []byte("module github.com/airlock-ci/airlock\n\ngo 1.26\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(cmd, "main.go"),
		[]byte("package main\n\nimport \"os\"\n\nvar println func(string) (int, error)\n\nfunc main() { "+body+" }\n"), 0o600))
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, name), "./cmd/"+name)
	build.Dir = module
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestTheService(t *testing.T) {
	for name, tc := range map[string]struct {
		host   *standin.Executor
		status Status
		detail string
	}{
		"same version":   {&standin.Executor{}, OK, "version v0.0.0-test, protocol 2"},
		"other protocol": {&standin.Executor{Protocol: 9}, Fail, "speaks protocol 9"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report{}
			checkService(t.Context(), r, Options{Socket: standin.Serve(t, tc.host), Version: "v0.0.0-test"})
			require.Equal(t, tc.status, r.findings[0].Status)
			require.Contains(t, r.findings[0].Detail, tc.detail)
		})
	}
	r := &report{}
	checkService(t.Context(), r, Options{Socket: standin.Serve(t, &standin.Executor{}), Version: "v2"})
	require.Equal(t, Warn, r.findings[0].Status)
	require.Contains(t, r.findings[0].Remedy, "restart the service")
}

func TestNameServers(t *testing.T) {
	for name, tc := range map[string]struct {
		resolvConf string
		configured []string
		status     Status
		detail     string
	}{
		"reachable":      {"# comment\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n", nil, OK, "192.0.2.1, from /etc/resolv.conf"},
		"loopback only":  {"nameserver 127.0.0.53\n", nil, Fail, "cannot reach the host's name servers (127.0.0.53)"},
		"only version 6": {"nameserver 2001:db8::1\n", nil, Fail, "cannot reach the host's name servers (2001:db8::1)"},
		"none":           {"search example.org\n", nil, Fail, "names no server"},
		"configured":     {"nameserver 127.0.0.53\n", []string{"192.0.2.7"}, OK, "configured: 192.0.2.7"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			cfg.DNS = tc.configured
			f := in(t, unix.CLONE_NEWNS, func() error { return replace(t, "/etc/resolv.conf", tc.resolvConf) },
				func(r *report) { checkDNS(r, cfg) })
			require.Equal(t, tc.status, f.Status, f.Detail)
			require.Contains(t, f.Detail, tc.detail)
		})
	}
}

func TestTheRunnersUser(t *testing.T) {
	const passwd = "root:x:0:0::/root:/bin/sh\ngitlab-runner:x:990:990::/home/gitlab-runner:/bin/sh\n"
	for name, tc := range map[string]struct {
		passwd, group, configured string
		status                    Status
		detail                    string
	}{
		"no such user":    {"root:x:0:0::/root:/bin/sh\n", "root:x:0:\n", "", Info, "there is no user gitlab-runner"},
		"own group":       {passwd, "gitlab-runner:x:990:\n", "", OK, "user gitlab-runner is in group gitlab-runner"},
		"member":          {passwd, "gitlab-runner:x:990:\nci:x:991:gitlab-runner\n", "ci", OK, "is in group ci"},
		"no member":       {passwd, "gitlab-runner:x:990:\nci:x:991:\n", "ci", Warn, "is not in group ci"},
		"no such a group": {passwd, "gitlab-runner:x:990:\n", "ci", Warn, "group ci does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Group = tc.configured
			f := in(t, unix.CLONE_NEWNS, func() error {
				if err := replace(t, "/etc/passwd", tc.passwd); err != nil {
					return err
				}
				return replace(t, "/etc/group", tc.group)
			}, func(r *report) { checkGroup(r, cfg) })
			require.Equal(t, tc.status, f.Status, f.Detail)
			require.Contains(t, f.Detail, tc.detail)
		})
	}
}

func TestTheDiskOfTheState(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		fs, size               string
		minFree, minFreeInodes int64
		status                 Status
		detail                 string
	}{
		"full":          {"tmpfs", "size=2m", 0, 0, Fail, "0.0 GiB free (tmpfs)"},
		"below a floor": {"tmpfs", "size=20g", 30 << 30, 0, Fail, "20.0 GiB free, and pulls leave 30 GiB free: no image can be pulled"},
		"no inodes":     {"tmpfs", "size=20g,nr_inodes=100", 0, 1000, Fail, "99 inodes free, and pulls leave 1000"},
		"memory":        {"tmpfs", "size=20g", 0, 0, Warn, "images use memory"},
		"odd":           {"proc", "", 0, 0, Warn, "may not keep what images hold"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Cache.MinFreeSpace, cfg.Cache.MinFreeInodes = tc.minFree, tc.minFreeInodes
			cfg.StateDir = filepath.Join(dir, "yet", "to", "come")
			f := in(t, unix.CLONE_NEWNS, func() error { return unix.Mount("none", dir, tc.fs, 0, tc.size) },
				func(r *report) { checkStorage(r, cfg) })
			require.Equal(t, tc.status, f.Status, f.Detail)
			require.Contains(t, f.Detail, tc.detail)
		})
	}
}

func TestAnOverlayOnAFileSystemThatCannot(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.StateDir = dir
	f := in(t, unix.CLONE_NEWNS, func() error { return unix.Mount("none", dir, "tmpfs", unix.MS_RDONLY, "") },
		func(r *report) { checkOverlay(r, cfg) })
	require.Equal(t, Fail, f.Status)
	require.Contains(t, f.Detail, "read-only file system")
}

func TestOneSandboxCouldFillTheTableOfConnections(t *testing.T) {
	cfg := config.Default()
	examine := func() Finding {
		return in(t, unix.CLONE_NEWNET, func() error { return nil }, func(r *report) { checkConnections(r, cfg) })
	}
	cfg.Network.MaxConnections = 16
	f := examine()
	require.Equal(t, OK, f.Status, f.Detail)
	cfg.Network.MaxConnections = 1 << 20
	f = examine()
	require.Equal(t, Warn, f.Status, f.Detail)
	require.Contains(t, f.Detail, "one sandbox may take 8388608")
	require.Contains(t, f.Remedy, "max_connections")
}

func TestAForwardChainThatDrops(t *testing.T) {
	cfg := config.Default()
	nothing := func() error { return nil }
	f := in(t, unix.CLONE_NEWNET, nothing, func(r *report) { checkForwardPolicy(t.Context(), r, cfg) })
	require.Equal(t, OK, f.Status, f.Detail)

	asDocker := func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		drop := nftables.ChainPolicyDrop
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
		conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
		return conn.Flush()
	}
	f = in(t, unix.CLONE_NEWNET, asDocker, func(r *report) { checkForwardPolicy(t.Context(), r, cfg) })
	require.Equal(t, Warn, f.Status, f.Detail)
	require.Contains(t, f.Detail, "FORWARD")
	require.Contains(t, f.Remedy, "iptables -I DOCKER-USER -i airlock0 -j ACCEPT")
}

// TestSocketsOfClasses: what keeps the service from starting fails, what makes the binding void is a warning.
func TestSocketsOfClasses(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	for _, c := range []struct {
		name, group string
		want        Status
		detail      string
	}{
		{"socket", "games", OK, "for the group games"},
		{"new", "games", Info, "is made when the service starts"},
		{"file", "games", Fail, "is no socket"},
		{"socket", "al-no-such-group", Fail, "unknown group al-no-such-group"},
		{"socket", "nogroup", Warn, "is that of the service's own socket"},
	} {
		cfg := config.Default()
		cfg.Group, cfg.Sockets = "nogroup", []config.Socket{{Path: filepath.Join(dir, c.name), Group: c.group, RunnerClass: "protected"}}
		r := &report{}
		checkSockets(r, cfg)
		require.Len(t, r.findings, 1)
		require.Equal(t, c.want, r.findings[0].Status, c)
		require.Contains(t, r.findings[0].Detail, c.detail)
		require.Equal(t, "socket of class protected", r.findings[0].Check)
	}
}

func TestCorePattern(t *testing.T) {
	file := filepath.Join(t.TempDir(), "core_pattern")
	for pattern, want := range map[string]Finding{
		"core\n": {Check: "core files", Status: OK, Detail: "they stay in the sandbox"},
		"|/usr/lib/systemd/systemd-coredump %P %u\n": {Check: "core files", Status: Warn, Detail: "has this host run /usr/lib/systemd/systemd-coredump for"},
		"/var/crash/core.%p\n":                       {Check: "core files", Status: Warn, Detail: "core files go to /var/crash/core.%p"},
	} {
		require.NoError(t, os.WriteFile(file, []byte(pattern), 0o600))
		r := &report{}
		checkCorePattern(r, file)
		require.Len(t, r.findings, 1)
		got := r.findings[0]
		require.Equal(t, want.Status, got.Status)
		require.Contains(t, got.Detail, want.Detail)
		require.Equal(t, want.Status == Warn, got.Remedy != "")
	}
}

// TestRaisedLimits: what the doctor says of the limits of jobs is what this process could give them.
func TestRaisedLimits(t *testing.T) {
	r := &report{}
	checkRaisedLimits(r)
	require.Len(t, r.findings, 1)
	var own unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NPROC, &own))
	if own.Max != unix.RLIM_INFINITY {
		err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: own.Cur, Max: own.Max + 1})
		require.Equal(t, err == nil, r.findings[0].Status == OK, "%v: %+v", err, r.findings[0])
	}
	require.Equal(t, "unlimited", ulimit(unix.RLIM_INFINITY))
	require.Equal(t, "96364", ulimit(96364))
}
