package conformance

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

func posixScratch(t testing.TB, env RuntimeEnv) {
	before := env.BaseFingerprint(t)
	b := newBox(t, env)
	b.shell(t, "echo mine > /etc/mine; echo changed >> /etc/passwd; chmod 700 /usr; rm /etc/group; rm -r /home; echo t > /tmp/t")
	for _, path := range []string{"/etc/mine", "/etc/passwd", "/tmp/t"} {
		require.True(t, env.ScratchHas(t, b.spec, path), path)
	}
	require.Equal(t, before, env.BaseFingerprint(t))
	other := newBox(t, env)
	require.Equal(t, "root:x:0:\n", other.shell(t, "head -n1 /etc/group"))
	require.Equal(t, "755\n", other.shell(t, "stat -c %a /usr"))
}

func posixNames(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env, func(s *isolation.Spec) {
		s.Hostname = "runner-7"
		s.Network.Nameservers = []string{"192.0.2.1", "192.0.2.2"}
		s.Network.Search, s.Network.Options = []string{"example.org"}, []string{"ndots:2"}
		s.Network.Hosts = []string{"192.0.2.9 registry.example.org"}
	})
	require.Equal(t, "runner-7\nrunner-7\n", b.shell(t, "hostname; cat /etc/hostname"))
	const want = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.org\noptions ndots:2\n"
	require.Equal(t, want, b.shell(t, "cat /etc/resolv.conf"))
	hosts := b.shell(t, "cat /etc/hosts")
	require.Contains(t, hosts, "192.0.2.9 registry.example.org\n")
	require.Regexp(t, `(?m)^127\.0\.0\.1\s+localhost`, hosts)
	require.Regexp(t, `(?m)\srunner-7$`, hosts)

	// What the author changes in the image is not what the runner's own stages look up.
	b.shell(t, "echo 192.0.2.66 gitlab.example.org > /etc/hosts")
	helper := b.run(t, isolation.ProcessSpec{Helper: true, Args: []string{"cat", "/etc/hosts", "/etc/resolv.conf"}})
	require.Zero(t, helper.Code, helper.stderr)
	require.Equal(t, hosts+want, helper.stdout)

	silent := newBox(t, env)
	require.Empty(t, silent.shell(t, "cat /etc/resolv.conf"))
}

// posixLocalhost: programs that try one address alone must reach servers that listen on IPv4, the sandbox's only one beside ::1.
func posixLocalhost(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for _, helper := range []bool{false, true} {
		r := b.run(t, isolation.ProcessSpec{Helper: helper, Args: []string{"cat", "/etc/hosts"}})
		var addresses []string
		for line := range strings.Lines(r.stdout) {
			if fields := strings.Fields(line); slices.Contains(fields[1:], "localhost") {
				addresses = append(addresses, fields[0])
			}
		}
		require.Equal(t, []string{"127.0.0.1"}, addresses)
		require.Regexp(t, `(?m)^::1\s.*\bip6-localhost\b`, r.stdout)
	}
	require.Contains(t, b.shell(t, "ping -c 1 localhost"), "(127.0.0.1)", "what resolvers say")
	require.Contains(t, b.shell(t, "ping6 -c 1 ip6-localhost"), "(::1)")
}

// posixPing: busybox's has raw sockets only, which take a capability.
func posixPing(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for _, user := range []string{"", "builder", "4321", "0:4321"} {
		r := b.run(t, isolation.ProcessSpec{Args: []string{"ping", "-c", "1", "-W", "5", "127.0.0.1"}, User: user})
		require.Contains(t, r.stdout, "1 packets received", "user %q: %s", user, r.stderr)
	}
	b.shell(t, "mkdir /tmp/suid; cp /bin/busybox /tmp/suid/ping; chmod 4755 /tmp/suid/ping")
	r := b.run(t, isolation.ProcessSpec{Args: []string{"/tmp/suid/ping", "-c", "1", "-W", "5", "127.0.0.1"}, User: "builder"})
	require.Contains(t, r.stdout, "1 packets received", r.stderr)
	require.Equal(t, "0\t2147483647\n", b.shell(t, "cat /proc/sys/net/ipv4/ping_group_range"))
	const rights = "grep -e CapPrm -e CapEff -e CapInh -e CapAmb /proc/self/status | sort -u | tr -s '\t' ' '"
	r = b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", rights}, User: "builder"})
	const netRaw = "0000000000002000"
	require.Equal(t, "CapAmb: "+netRaw+"\nCapEff: "+netRaw+"\nCapInh: "+netRaw+"\nCapPrm: "+netRaw+"\n", r.stdout, "this capability and no other")
	r = b.run(t, isolation.ProcessSpec{Helper: true, User: "builder", Args: []string{"sh", "-c", "grep CapEff /proc/self/status"}})
	require.Contains(t, r.stdout, "000000000000000a\n", "the runner's own stages: DAC_OVERRIDE and FOWNER")
}

// posixRun: what the image has in /run is there, with its owners and modes, and as writable as they say.
func posixRun(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	require.Equal(t, "755 0:0 /run\n1777 0:0 /run/lock\n750 1000:1000 /run/service\n/run\n",
		b.shell(t, "stat -c '%a %u:%g %n' /run /run/lock /run/service; readlink /var/run"))
	require.NotContains(t, b.shell(t, "cat /proc/mounts"), " /run ")
	for user, lines := range map[string]map[string]bool{
		"":        {"echo 1 > /run/x.pid": true, "mkdir /run/mine": true, "echo 1 > /var/run/y.pid": true},
		"builder": {"echo 1 > /run/service/x": true, "mkdir /run/lock/mine": true, "echo 1 > /run/z.pid": false},
		"4321":    {"echo 1 > /run/service/y": false, "echo 1 > /run/lock/y": true, "rmdir /run/lock/mine": false},
	} {
		for line, allowed := range lines {
			r := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", line}, User: user})
			require.Equal(t, allowed, r.Code == 0, "%q as %q: %s", line, user, r.stderr)
		}
	}
	require.True(t, env.ScratchHas(t, b.spec, "/run/x.pid"))
	require.Equal(t, "/run/lock\n/run/service\n", newBox(t, env).shell(t, "find /run -mindepth 1 | sort"), "of another sandbox")
}

func posixNoNetwork(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	require.Equal(t, "lo\n", b.shell(t, "ls /sys/class/net"))
	require.Contains(t, b.shell(t, "ip -4 addr show lo"), "127.0.0.1/8")
	require.NotZero(t, b.run(t, isolation.ProcessSpec{Args: []string{"nc", "-w", "1", "192.0.2.1", "80"}}).Code)
}

func posixNeighbours(t testing.TB, env RuntimeEnv) {
	a, b := newBox(t, env), newBox(t, env)
	p := a.start(t, isolation.ProcessSpec{Args: []string{"sleep", "1003"}})
	a.shell(t, "echo secret > /tmp/secret; echo secret > /dev/shm/secret; echo secret > /builds/secret; echo secret > /cache/secret")
	require.True(t, a.running(t, "sleep 1003"))

	require.False(t, b.running(t, "sleep 1003"))
	require.Equal(t, "0\n", b.shell(t, "cat /tmp/secret /dev/shm/secret /builds/secret /cache/secret 2>/dev/null | wc -l"))
	b.shell(t, "kill -9 -1 2>/dev/null; true")
	require.True(t, a.running(t, "sleep 1003"))
	require.NoError(t, p.Signal(deadline(t), 9))
	_, err := wait(t, p)
	require.NoError(t, err)
}
