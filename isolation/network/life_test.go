//go:build linux

package network

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// ledger counts what could leak.
type ledger struct{ links, files, elements, tables, connections int }

func takeLedger(t testing.TB, m *Manager) ledger {
	t.Helper()
	links, err := netlink.LinkList()
	require.NoError(t, err)
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	elements, err := m.sources()
	require.NoError(t, err)
	tx, err := transaction()
	require.NoError(t, err)
	tables, err := tx.ListTables()
	require.NoError(t, err)
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
	require.NoError(t, err)
	return ledger{len(links), len(files), len(elements), len(tables), len(flows)}
}

// requireNothingMore compares; what conntrack keeps of earlier tests' connections goes by itself.
func requireNothingMore(t testing.TB, before ledger, m *Manager) {
	t.Helper()
	after := takeLedger(t, m)
	before.connections = min(before.connections, after.connections)
	require.Equal(t, before, after)
}

func TestNothingLeaks(t *testing.T) {
	m := newManager(t, options(t))
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	attachDetach := func(i int) {
		id := fmt.Sprintf("al-%012x", i)
		mode := ModeNAT
		if i%5 == 0 {
			mode = ModeNone
		}
		form := isolation.NetworkNamespace
		if i%2 == 0 {
			form = isolation.NetworkTap
		}
		_, err := m.Attach(t.Context(), id, mode, form)
		require.NoError(t, err)
		require.NoError(t, m.Detach(t.Context(), id))
	}
	attachDetach(1) // the first opens what stays open
	attachDetach(2)
	before := takeLedger(t, m)
	for i := range 200 {
		attachDetach(i)
	}
	requireNothingMore(t, before, m)
	ids, err := m.Attached(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	require.Len(t, m.pool.taken, 0)
}

func TestRemoveLeavesNothing(t *testing.T) { eachForm(t, removeLeavesNothing) }

func removeLeavesNothing(t *testing.T, form isolation.NetworkForm) {
	m, err := New(options(t))
	require.NoError(t, err)
	before := takeLedger(t, m)
	require.NoError(t, m.Prepare(t.Context()))
	put := func() {
		_, err := m.Attach(t.Context(), "al-000000000001", ModeNAT, form)
		require.NoError(t, err)
	}
	put()
	err = m.Remove(t.Context())
	require.ErrorContains(t, err, "1 sandboxes attached")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	require.NoError(t, m.Detach(t.Context(), "al-000000000001"))
	require.NoError(t, m.Remove(t.Context()))
	require.NoError(t, m.Remove(t.Context()), "twice")
	requireNothingMore(t, before, m)
	ids, err := m.Attached(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)

	put() // makes all of it again
	require.NoError(t, m.Detach(t.Context(), "al-000000000001"))
	require.NoError(t, m.Remove(t.Context()))
}

func TestDetachIsIdempotentAndWorksForOthers(t *testing.T) {
	eachForm(t, detachIsIdempotentAndWorksForOthers)
}

func detachIsIdempotentAndWorksForOthers(t *testing.T, form isolation.NetworkForm) {
	m := newManager(t, options(t))
	other := newManager(t, options(t)) // takes bridge and rules over, with what is attached
	require.NoError(t, m.Detach(t.Context(), "al-never"))
	s := attachAt(t, form, m, "al-000000000001")
	ids, err := other.Attached(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{s.id}, ids)

	require.NoError(t, other.Detach(t.Context(), s.id))
	require.Nil(t, linkOf(t, s.id))
	ids, err = other.Attached(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	for range 2 {
		require.NoError(t, m.Detach(t.Context(), s.id))
	}
	ids, err = m.Attached(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
}

func TestAttachTwiceIsRefused(t *testing.T) { eachForm(t, attachTwiceIsRefused) }

func attachTwiceIsRefused(t *testing.T, form isolation.NetworkForm) {
	m := newManager(t, options(t))
	s := attachAt(t, form, m, "al-000000000001")
	_, err := m.Attach(t.Context(), s.id, ModeNAT, form)
	require.ErrorContains(t, err, "already")
	require.Equal(t, fault.System, fault.ClassOf(err))
	require.NotNil(t, linkOf(t, s.id), "the first is untouched")
}

func linkOf(t *testing.T, id string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(portName("test0", id))
	if isLinkNotFound(err) {
		return nil
	}
	require.NoError(t, err)
	return link
}

func TestConcurrentSandboxesGetAddressesOfTheirOwn(t *testing.T) {
	newWorld(t)
	m := newManager(t, options(t))
	const n = 40
	sandboxes := make([]sandbox, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			id := fmt.Sprintf("al-%012x", i)
			form := isolation.NetworkNamespace
			if i%2 == 0 {
				form = isolation.NetworkTap
			}
			network, err := m.Attach(context.Background(), id, ModeNAT, form)
			if err == nil {
				sandboxes[i] = sandbox{network, id}
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, s := range sandboxes {
		require.NotEmpty(t, s.Address)
		require.False(t, seen[s.Address], s.Address)
		seen[s.Address] = true
		if s.TapFile != nil {
			s.NetNS = playGuest(t, s.Network)
		}
		require.True(t, s.reaches(t, "tcp", internet+":80"), s.Address)
	}
	for _, s := range sandboxes {
		for range 2 { // beside each other
			all.Go(func() {
				if err := m.Detach(context.Background(), s.id); err != nil {
					t.Errorf("detaching %s: %v", s.id, err)
				}
			})
		}
	}
	all.Wait()
	require.Empty(t, m.attached)
}

func TestFullSubnetIsSaid(t *testing.T) {
	o := options(t)
	o.Subnet = "172.29.0.0/28"
	m := newManager(t, o)
	const room = 13 // 16, less network, gateway and broadcast
	for i := range room {
		attach(t, m, fmt.Sprintf("al-%012x", i))
	}
	before := takeLedger(t, m)
	_, err := m.Attach(t.Context(), "al-more", ModeNAT, isolation.NetworkNamespace)
	require.ErrorContains(t, err, "all 13 addresses of 172.29.0.0/28 are in use")
	require.Equal(t, fault.System, fault.ClassOf(err))
	requireNothingMore(t, before, m)
	require.NoError(t, m.Detach(t.Context(), "al-000000000003"))
	attach(t, m, "al-more")
}

func TestRulesAreMadeAgain(t *testing.T) { eachForm(t, rulesAreMadeAgain) }

func rulesAreMadeAgain(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	m := newManager(t, options(t))
	s := attachAt(t, form, m, "al-000000000001")
	before := rules(t)
	require.NoError(t, m.prepare())
	require.Equal(t, before, rules(t), "the same rules, not twice")

	second := newManager(t, options(t))
	require.Equal(t, before, rules(t))
	require.True(t, s.reaches(t, "tcp", internet+":80"), "a successor keeps who is attached")
	other := attachAt(t, form, second, "al-000000000002")
	require.NotEqual(t, s.Address, other.Address)

	tx, err := transaction()
	require.NoError(t, err)
	tx.FlushRuleset() // an administrator restarts nftables.service
	require.NoError(t, tx.Flush())
	third := attachAt(t, form, second, "al-000000000003")
	for _, each := range []sandbox{s, other, third} {
		require.True(t, each.reaches(t, "tcp", internet+":80"))
		require.True(t, each.refused(t, "tcp", gateway+":80"))
	}
}

// rules returns the whole ruleset as nft prints it.
func rules(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

func TestKilledProcessLeavesNoLinks(t *testing.T) {
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), childVariable+"=1")
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "attached\n", line)
	for i := range 3 {
		require.NotNil(t, linkOf(t, childID(i)))
	}
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	require.Eventually(t, func() bool {
		return linkOf(t, childID(0)) == nil && linkOf(t, childID(1)) == nil && linkOf(t, childID(2)) == nil
	}, 10*time.Second, 10*time.Millisecond)

	m, err := New(options(t))
	require.NoError(t, err)
	ids, err := m.Attached(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{childID(0), childID(1), childID(2)}, ids, "their sources stay in the rules")
	require.NoError(t, m.Detach(t.Context(), childID(0)))
	ids, err = m.Attached(t.Context())
	require.NoError(t, err)
	require.Len(t, ids, 2)
	m = newManager(t, options(t))
	ids, err = m.Attached(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids, "a start clears them")
}

func childID(i int) string { return fmt.Sprintf("al-child%d", i) }

// childMain is the process that TestKilledProcessLeavesNoLinks kills.
func childMain() {
	m, err := New(Options{Bridge: "test0", Subnet: testSubnet, MaxConnections: 4096, DNS: []string{lanDNS}, Logger: zerolog.Nop()})
	for i := 0; i < 3 && err == nil; i++ {
		form := isolation.NetworkNamespace
		if i == 1 {
			form = isolation.NetworkTap
		}
		_, err = m.Attach(context.Background(), childID(i), ModeNAT, form)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("attached")
	time.Sleep(time.Minute)
}

func TestHostWithoutNameServers(t *testing.T) {
	o := options(t)
	o.DNS = nil
	m := newManager(t, o)
	servers := hostResolver(resolverFiles(), os.ReadFile).servers
	network, err := m.Attach(t.Context(), "al-000000000001", ModeNAT, isolation.NetworkNamespace)
	if len(servers) > 0 {
		require.NoError(t, err)
		require.Len(t, network.Nameservers, len(servers))
		return
	}
	require.ErrorContains(t, err, "set dns")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

func TestRefusedAttaches(t *testing.T) {
	m := newManager(t, options(t))
	before := takeLedger(t, m)
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("the job was cancelled"))
	cases := map[string]struct {
		ctx    context.Context
		id     string
		mode   string
		form   isolation.NetworkForm
		class  fault.Class
		expect string
	}{
		"no form":   {t.Context(), "al-1", ModeNAT, 0, fault.System, "not a form"},
		"mode":      {t.Context(), "al-1", "host", isolation.NetworkNamespace, fault.Admin, `network "host" is unknown`},
		"id":        {t.Context(), "al 1", ModeNAT, isolation.NetworkNamespace, fault.System, "not a sandbox id"},
		"cancelled": {cancelled, "al-1", ModeNAT, isolation.NetworkNamespace, fault.System, "the job was cancelled"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := m.Attach(c.ctx, c.id, c.mode, c.form)
			require.ErrorContains(t, err, c.expect)
			require.Equal(t, c.class, fault.ClassOf(err))
		})
	}
	requireNothingMore(t, before, m)
}

// A start beside what an earlier process left: its addresses are not given out twice.
func TestAddressesOfOthersAreNotTaken(t *testing.T) { eachForm(t, addressesOfOthersAreNotTaken) }

func addressesOfOthersAreNotTaken(t *testing.T, form isolation.NetworkForm) {
	first := newManager(t, options(t))
	left := attachAt(t, form, first, "al-000000000001")
	second := newManager(t, options(t))
	for i := range 3 {
		for range 2 { // also after the reaper has looked
			s := attachAt(t, form, second, fmt.Sprintf("al-00000000001%d", i))
			require.NotEqual(t, left.Address, s.Address)
			require.NoError(t, second.Detach(t.Context(), s.id))
			_, err := second.Attached(t.Context())
			require.NoError(t, err)
			second.pool.last = second.gateway
		}
	}
	_, err := second.Attach(t.Context(), left.id, ModeNAT, form)
	require.ErrorContains(t, err, "already")
}

func TestForeignLinkIsNotTaken(t *testing.T) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "test0"
	link := &netlink.Bridge{LinkAttrs: attrs}
	require.NoError(t, netlink.LinkAdd(link))
	defer func() { require.NoError(t, netlink.LinkDel(link)) }()
	m, err := New(options(t))
	require.NoError(t, err)
	for _, err := range []error{m.Prepare(t.Context()), m.Remove(t.Context())} {
		require.ErrorContains(t, err, "was not made by Airlock")
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	}
	require.Empty(t, rules(t))
}

func TestOverlapWithTheHostIsRefused(t *testing.T) {
	newWorld(t)
	for subnet, route := range map[string]string{
		"10.77.0.0/16":    "10.77.0.0/24 (lan0)",
		"10.77.0.128/25":  "10.77.0.0/24 (lan0)",
		"198.51.100.0/24": "198.51.100.0/24 (wan0)",
		"169.254.0.0/16":  "169.254.169.254/32 (lan0)",
		"127.0.0.0/16":    "127.0.0.0/8 (lo)",
	} {
		t.Run(subnet, func(t *testing.T) {
			o := options(t)
			o.Subnet = subnet
			_, err := New(o)
			require.ErrorContains(t, err, "[network] subnet "+subnet)
			require.ErrorContains(t, err, route)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
		})
	}
	newManager(t, options(t))
	_, err := New(options(t)) // our own bridge's route is none of them
	require.NoError(t, err)
}

func TestBridgeFollowsTheSubnet(t *testing.T) {
	newWorld(t)
	first, err := New(options(t))
	require.NoError(t, err)
	require.NoError(t, first.Prepare(t.Context()))
	o := options(t)
	o.Subnet = "172.30.0.0/20"
	s := attach(t, newManager(t, o), "al-000000000001")
	require.Equal(t, "172.30.0.1", s.Gateway)
	require.True(t, s.reaches(t, "tcp", internet+":80"))
}

func TestForwardBlockersAreNamed(t *testing.T) {
	newManager(t, options(t))
	found, err := ForwardBlockers()
	require.NoError(t, err)
	require.Empty(t, found, "our own are none")
	tx, err := transaction()
	require.NoError(t, err)
	table := tx.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	drop := nftables.ChainPolicyDrop
	tx.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	require.NoError(t, tx.Flush())
	defer func() { tx.DelTable(table); require.NoError(t, tx.Flush()) }()
	found, err = ForwardBlockers()
	require.NoError(t, err)
	require.Equal(t, []string{"table ip filter, chain FORWARD"}, found)
}

func TestNarrowUplinkMakesNarrowSandboxes(t *testing.T) {
	eachForm(t, narrowUplinkMakesNarrowSandboxes)
}

func narrowUplinkMakesNarrowSandboxes(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	wan, err := netlink.LinkByName("wan0")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetMTU(wan, 1380))
	s := attachAt(t, form, newManager(t, options(t)), "al-000000000001")
	inside(t, s.NetNS, func() {
		eth0, err := net.InterfaceByName("eth0")
		require.NoError(t, err)
		require.Equal(t, 1380, eth0.MTU)
	})
}

func BenchmarkAttachDetach(b *testing.B) {
	for name, how := range map[string]struct {
		mode string
		form isolation.NetworkForm
	}{
		"nat": {ModeNAT, isolation.NetworkNamespace}, "none": {ModeNone, isolation.NetworkNamespace}, "tap": {ModeNAT, isolation.NetworkTap},
	} {
		b.Run(name, func(b *testing.B) {
			m := newManager(b, Options{Bridge: "test0", Subnet: testSubnet, DNS: []string{lanDNS}, Logger: zerolog.Nop()})
			var attaching, detaching time.Duration
			for b.Loop() {
				start := time.Now()
				_, err := m.Attach(b.Context(), "al-bench", how.mode, how.form)
				require.NoError(b, err)
				middle := time.Now()
				require.NoError(b, m.Detach(b.Context(), "al-bench"))
				attaching += middle.Sub(start)
				detaching += time.Since(middle)
			}
			b.ReportMetric(float64(attaching.Microseconds())/float64(b.N), "µs/attach")
			b.ReportMetric(float64(detaching.Microseconds())/float64(b.N), "µs/detach")
		})
	}
}

func TestNamesFitTheKernel(t *testing.T) {
	for _, bridge := range []string{"airlock0", "a", strings.Repeat("b", 11)} {
		for _, id := range []string{"al-0123456789ab", strings.Repeat("x", 40)} {
			name := portName(bridge, id)
			require.Len(t, name, 15)
			require.True(t, strings.HasPrefix(name, PortPrefix(bridge)))
		}
	}
	require.NotEqual(t, PortPrefix("airlock0"), PortPrefix("airlock1"))
}
