package doctor

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/isolation/network"
)

// checkLinks makes a bridge with a veth pair in a network namespace of its own.
func checkLinks(r *report) {
	const check = "links"
	err := inNamespaces(unix.CLONE_NEWNET, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "doctor0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return errors.Join(errors.New("a bridge cannot be made"), err)
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "doctor1"}, PeerName: "doctor2"}
		if err := netlink.LinkAdd(veth); err != nil {
			return errors.Join(errors.New("a veth pair cannot be made"), err)
		}
		return netlink.LinkSetMaster(veth, bridge)
	})
	if err != nil {
		r.fail(check, "load the modules: modprobe -a bridge veth", "%s", oneLine(err))
		return
	}
	r.ok(check, "bridges and veth pairs can be made")
}

// checkNftables makes, in a network namespace of its own, a table with a masquerading chain that bounds connections.
func checkNftables(r *report) {
	const check = "nftables"
	err := inNamespaces(unix.CLONE_NEWNET, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "airlock-doctor"})
		chain := conn.AddChain(&nftables.Chain{
			Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeMinute, Burst: 1, Over: true},
			&expr.Connlimit{Count: 1, Flags: expr.NFT_CONNLIMIT_F_INV}, &expr.Masq{},
		}})
		return conn.Flush()
	})
	if err != nil {
		r.fail(check, "load the modules: modprobe -a nf_tables nft_masq nft_chain_nat nft_limit nft_connlimit",
			"a table with NAT and bounded connections cannot be made: %v", err)
		return
	}
	r.ok(check, "tables with NAT and bounded connections can be made")
}

// checkForwardPolicy looks for chains of somebody else's that drop what is forwarded: an accept in Airlock's own
// table does not overrule them. Docker sets one.
func checkForwardPolicy(ctx context.Context, r *report, cfg *config.Config) {
	const check = "forward policy"
	if cfg.NetworkMode != "nat" {
		return
	}
	dropping, err := network.ForwardBlockers()
	if err != nil {
		r.warn(check, "see the finding about nftables", "%v", err)
		return
	}
	if legacyDrops(ctx) {
		dropping = append(dropping, "chain FORWARD of iptables-legacy")
	}
	if len(dropping) == 0 {
		r.ok(check, "no chain drops forwarded packets by default")
		return
	}
	bridge := cfg.Network.Bridge
	r.warn(check, "let sandboxes through, with Docker by: iptables -I DOCKER-USER -i "+bridge+" -j ACCEPT; "+
		"iptables -I DOCKER-USER -o "+bridge+" -j ACCEPT",
		"%s drops by default: unless it lets %s through, sandboxes have no network", strings.Join(dropping, " and "), bridge)
}

// legacyDrops asks iptables-legacy, which nftables does not see, if that is in use at all.
func legacyDrops(ctx context.Context) bool {
	tables, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil || !slices.Contains(strings.Fields(string(tables)), "filter") {
		return false
	}
	policy, err := firstLine(ctx, "iptables-legacy", "-S", "FORWARD")
	return err == nil && policy == "-P FORWARD DROP"
}

// checkForwarding looks whether the kernel forwards packets.
func checkForwarding(r *report, cfg *config.Config) {
	const check, path = "ip_forward", "/proc/sys/net/ipv4/ip_forward"
	if cfg.NetworkMode != "nat" {
		return
	}
	data, err := os.ReadFile(path)
	switch {
	case err != nil:
		r.fail(check, "use a kernel with IPv4, or set network_mode = \"none\"", "%v", err)
	case strings.TrimSpace(string(data)) == "1":
		r.ok(check, "packets are forwarded")
	default:
		r.info(check, "packets are not forwarded now; the service switches that on when it starts")
	}
}

// checkConnections looks whether one sandbox could fill the host's table of connections, in which it takes up to
// eight times max_connections: see docs/configuration.md.
func checkConnections(r *report, cfg *config.Config) {
	const check, path = "connections", "/proc/sys/net/netfilter/nf_conntrack_max"
	if cfg.NetworkMode != "nat" {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		r.info(check, "the table of connections is not there yet; the service's rules make the kernel load it")
		return
	}
	room, err := strconv.Atoi(strings.TrimSpace(string(data)))
	most := 8 * cfg.Network.MaxConnections
	switch {
	case err != nil:
		r.warn(check, "see "+path, "%v", err)
	case room != 0 && most > room/2: // 0 is no bound
		r.warn(check, "sysctl -w net.netfilter.nf_conntrack_max="+strconv.Itoa(16*most)+", or a lower max_connections in [network]",
			"the host's table has room for %d connections, of which one sandbox may take %d", room, most)
	default:
		r.ok(check, "the host's table has room for %d connections, of which one sandbox may take %d", room, most)
	}
}

// checkDNS looks for a name server that sandboxes can reach: over IPv4, and not on the host's own loopback.
func checkDNS(r *report, cfg *config.Config) {
	const check = "dns"
	if cfg.NetworkMode == "none" {
		return
	}
	if len(cfg.DNS) > 0 {
		r.ok(check, "configured: %s", strings.Join(cfg.DNS, ", "))
		return
	}
	// systemd-resolved keeps the real servers in its own file, /etc/resolv.conf then has only its loopback one.
	var all []string
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		servers := nameservers(path)
		all = append(all, servers...)
		if reachable := slices.DeleteFunc(slices.Clone(servers), unreachable); len(reachable) > 0 {
			r.ok(check, "%s, from %s", strings.Join(reachable, ", "), path)
			return
		}
	}
	const remedy = `set dns = ["ADDRESS"] in the configuration`
	if len(all) > 0 {
		r.fail(check, remedy, "sandboxes cannot reach the host's name servers (%s): they are on its loopback or IPv6 only",
			strings.Join(all, ", "))
		return
	}
	r.fail(check, remedy, "/etc/resolv.conf names no server: sandboxes cannot resolve names")
}

// nameservers returns the addresses that a resolv.conf names, none when it cannot be read.
func nameservers(path string) []string {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	var servers []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			servers = append(servers, fields[1])
		}
	}
	return servers
}

// unreachable reports whether a sandbox cannot reach a name server.
func unreachable(server string) bool {
	address, err := netip.ParseAddr(server)
	return err != nil || !address.Unmap().Is4() || address.Unmap().IsLoopback()
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", ": ") }
