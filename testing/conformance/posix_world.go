package conformance

import (
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
