package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/probes"
	"github.com/airlock-ci/airlock/testing/rootfs"
	"github.com/airlock-ci/airlock/testing/runtimetest"
	"github.com/airlock-ci/airlock/testing/system"
)

// TestNoJobGetsOut runs all probes as a root job through the whole chain. That they can succeed is proven where
// they are run without confinement (isolation/oci).
func TestNoJobGetsOut(t *testing.T) { eachLevel(t, noJobGetsOut) }

func noJobGetsOut(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	unix, abstract, address := services(t)
	job := gitlabtest.Job{
		Image:  b.push(probeImage(t), "probes"),
		Script: []string{fmt.Sprintf("/probes -socket %s -abstract %s -address %s", unix, abstract, address)},
	}
	result := b.run(job)
	require.True(t, result.Success, result.Log)
	found := map[string]bool{}
	for line := range strings.Lines(result.Log) {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		results, err := probes.Parse(strings.NewReader(line))
		require.NoError(t, err, line)
		for _, r := range results {
			found[r.Name] = true
			require.True(t, r.Blocked, "%s got out: %s", r.Name, r.Detail)
		}
	}
	require.Len(t, found, probes.Count())
}

// services are what a host may run: a job must reach none of them.
func services(t *testing.T) (unix, abstract, address string) {
	t.Helper()
	unix = filepath.Join(t.TempDir(), "host.sock")
	abstract = fmt.Sprintf("airlock-e2e-%d", os.Getpid())
	for _, service := range [][2]string{{"unix", unix}, {"unix", "@" + abstract}, {"tcp", hostAddress(t) + ":0"}} {
		listener, err := net.Listen(service[0], service[1])
		require.NoError(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		address = listener.Addr().String()
	}
	return unix, abstract, address
}

// hostAddress puts a further address on this machine, on a bridge of the test's own.
func hostAddress(t *testing.T) string {
	t.Helper()
	addLink(t, "ale2ehost", "203.0.113.7/32")
	return "203.0.113.7"
}

func addLink(t *testing.T, name, address string) {
	t.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	link := &netlink.Bridge{LinkAttrs: attributes}
	require.NoError(t, netlink.LinkAdd(link))
	t.Cleanup(func() { require.NoError(t, netlink.LinkDel(link)) })
	addr, err := netlink.ParseAddr(address)
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(link, addr))
	require.NoError(t, netlink.LinkSetUp(link))
}

func probeImage(t *testing.T) v1.Image {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, runtimetest.Build(filepath.Join(dir, "probes"), "github.com/airlock-ci/airlock/testing/probes/cmd/probes"))
	program, err := rootfs.ImageOf(dir, v1.Config{})
	require.NoError(t, err)
	layers, err := program.Layers()
	require.NoError(t, err)
	image, err := mutate.AppendLayers(archived(t, must(images.Busybox(t.Context()))), layers...)
	require.NoError(t, err)
	return image
}

// TestWhatAJobReachesOnTheNetwork has real services on the addresses that matter: cloud metadata, a host, and a
// neighbour's sandbox, and the test's GitLab, which the administrator allows.
func TestWhatAJobReachesOnTheNetwork(t *testing.T) { eachLevel(t, whatAJobReachesOnTheNetwork) }

func whatAJobReachesOnTheNetwork(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	addLink(t, "ale2emeta", "169.254.169.254/32")
	metadata, err := net.Listen("tcp", "169.254.169.254:0")
	require.NoError(t, err)
	defer func() { _ = metadata.Close() }()
	_, _, host := services(t)

	neighbour := b.newCaller().Start(t.Context(), b.job(gitlabtest.Job{
		Script: []string{"echo address $(hostname -i || ip -4 addr show eth0)", "ip -4 addr show eth0", "(nc -l -p 7777 </dev/null &) ; sleep 1000"},
	}))
	defer func() { neighbour.Abort(); neighbour.Wait() }()
	addressLine := regexp.MustCompile(`inet (\d+\.\d+\.\d+\.\d+)/`)
	require.Eventually(t, func() bool { return addressLine.MatchString(neighbour.Log()) }, time.Minute, 50*time.Millisecond, "%s", neighbour.Log())
	address := addressLine.FindStringSubmatch(neighbour.Log())[1]

	gitlab := strings.TrimPrefix(b.gitlab.URL, "http://")
	try := func(name, target string) string {
		ip, port, err := net.SplitHostPort(target)
		require.NoError(t, err)
		return fmt.Sprintf("nc -w 3 %s %s </dev/null >/dev/null 2>&1 && echo %s reached || echo %s refused", ip, port, name, name)
	}
	result := b.run(gitlabtest.Job{Script: []string{
		try("gitlab", gitlab),
		try("metadata", metadata.Addr().String()),
		try("host", host),
		try("neighbour", net.JoinHostPort(address, "7777")),
		"nslookup -type=a localhost 127.0.0.1 >/dev/null 2>&1 || true",
	}})
	require.True(t, result.Success, result.Log)
	require.Contains(t, result.Log, "\ngitlab reached", "or the other lines prove nothing")
	for _, name := range []string{"metadata", "host", "neighbour"} {
		require.Contains(t, result.Log, "\n"+name+" refused")
	}
	out := b.airlock("run", "--image", b.registry+"/busybox", "--network", "none", "--", "sh", "-c", "ls /sys/class/net; "+try("gitlab", gitlab))
	require.Contains(t, out, "lo")
	require.NotContains(t, out, "eth0")
	require.Contains(t, out, "gitlab refused")
}
