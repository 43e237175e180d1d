package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// refused are the ranges that are not the internet: IANA's special-purpose registry
// (https://www.iana.org/assignments/iana-ipv4-special-registry) without the documentation ranges,
// which nobody routes, plus multicast and reserved.
func refused() []netip.Prefix {
	var ranges []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
	} {
		ranges = append(ranges, netip.MustParsePrefix(text))
	}
	return ranges
}

// linkLocal has the clouds' metadata service.
func linkLocal() netip.Prefix { return netip.MustParsePrefix("169.254.0.0/16") }

// The sets that change while sandboxes come and go.
const (
	sourcesSet = "sources" // of the bridge table: port . MAC . IP
	serversSet = "servers" // of the inet table: name servers
	// The kernel fills these two of the inet table itself, by the address of who opens connections.
	ratesSet       = "rates"
	connectionsSet = "connections"
)

// openChain is where every packet ends up that opens a connection which a sandbox may have.
const openChain = "open"

func (m *Manager) inetTable() *nftables.Table {
	return &nftables.Table{Name: m.bridge, Family: nftables.TableFamilyINet}
}

func (m *Manager) bridgeTable() *nftables.Table {
	return &nftables.Table{Name: m.bridge, Family: nftables.TableFamilyBridge}
}

func (m *Manager) sourcesOf(table *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: table, ID: 1, Name: sourcesSet, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
	}
}

func (m *Manager) serversOf(table *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: table, ID: 2, Name: serversSet, KeyType: nftables.TypeIPAddr}
}

// ratesOf is the set of who opened connections lately. After rateMemory a sandbox may open as many as in the beginning.
func (m *Manager) ratesOf(table *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: table, ID: 3, Name: ratesSet, KeyType: nftables.TypeIPAddr, Dynamic: true, Size: m.sandboxes(),
		HasTimeout: true, Timeout: rateMemory,
	}
}

// connectionsOf is the set of who has connections; the kernel drops those who have none any more.
func (m *Manager) connectionsOf(table *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: table, ID: 4, Name: connectionsSet, KeyType: nftables.TypeIPAddr, Dynamic: true, Size: m.sandboxes(),
	}
}

// sandboxes is how many the subnet has room for, and more.
func (m *Manager) sandboxes() uint32 { return 1 << (32 - m.subnet.Bits()) }

// installRules replaces both tables as a whole, in one transaction.
func (m *Manager) installRules(members []port, servers []netip.Addr) error {
	tx, err := transaction()
	if err != nil {
		return err
	}
	for _, table := range []*nftables.Table{m.inetTable(), m.bridgeTable()} {
		tx.AddTable(table) // or removing it would fail when there is none
		tx.DelTable(table)
		tx.AddTable(table)
	}
	if err := m.sourceRules(tx, members); err != nil {
		return err
	}
	if err := m.reachRules(tx, servers); err != nil {
		return err
	}
	return tx.Flush()
}

// sourceRules are the bridge table: a frame from a sandbox's port must carry that port's addresses.
func (m *Manager) sourceRules(tx *nftables.Conn, members []port) error {
	table := m.bridgeTable()
	sources := m.sourcesOf(table)
	var elements []nftables.SetElement
	for _, p := range members {
		element := source(m.bridge, p.id, p.addr)
		if !slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return bytes.Equal(e.Key, element.Key) }) {
			elements = append(elements, element)
		}
	}
	if err := tx.AddSet(sources, elements); err != nil {
		return err
	}
	port := chain{tx, tx.AddChain(&nftables.Chain{Name: "port", Table: table})}
	known := func(mac, ip []expr.Any) []expr.Any {
		return slices.Concat(loadIfname(sourceRegister), mac, ip,
			[]expr.Any{&expr.Lookup{SourceRegister: sourceRegister, SetName: sources.Name, SetID: sources.ID}})
	}
	port.rule(etherType(unix.ETH_P_IP), known(loadEtherSource(macRegister), loadIPSource(ipRegister)), verdict(expr.VerdictAccept))
	port.rule(etherType(unix.ETH_P_ARP), arpForIPv4(),
		known(loadEtherSource(macRegister), loadARPSenderIP(ipRegister)),
		known(loadARPSenderMAC(macRegister), loadARPSenderIP(ipRegister)), verdict(expr.VerdictAccept))
	port.rule(verdict(expr.VerdictDrop))
	prerouting := chain{tx, tx.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})}
	prerouting.rule(ifnamePrefix(PortPrefix(m.bridge)), jump("port"))
	return nil
}

// reachRules are the inet table: what may be reached from the bridge, and that nothing reaches into it.
func (m *Manager) reachRules(tx *nftables.Conn, servers []netip.Addr) error {
	table := m.inetTable()
	set := m.serversOf(table)
	if err := tx.AddSet(set, serverElements(servers)); err != nil {
		return err
	}
	plain := func(name string) chain { return chain{tx, tx.AddChain(&nftables.Chain{Name: name, Table: table})} }
	refuse := plain("refuse")
	refuse.rule(protocol(unix.IPPROTO_TCP), rejectTCP())
	refuse.rule(rejectProhibited())
	if err := m.openRules(tx); err != nil {
		return err
	}

	egress := plain("egress")
	egress.preamble(set)
	local, other := splitExceptions(m.exceptions)
	egress.except(local)
	egress.rule(destination(linkLocal()), jump("refuse"))
	egress.except(other)
	for _, prefix := range refused() {
		egress.rule(destination(prefix), jump("refuse"))
	}
	egress.rule(jump(openChain))

	host := plain("host")
	host.preamble(set)
	host.except(slices.DeleteFunc(slices.Clone(m.exceptions), func(e Exception) bool { return !e.Prefix.IsSingleIP() }))
	host.rule(jump("refuse"))

	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) chain {
		return chain{tx, tx.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority})}
	}
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	forward.rule(fromLink(m.bridge), toLink(m.bridge), verdict(expr.VerdictDrop))
	forward.rule(fromLink(m.bridge), jump("egress"))
	forward.rule(toLink(m.bridge), connection(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	forward.rule(toLink(m.bridge), verdict(expr.VerdictDrop))
	base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter).
		rule(fromLink(m.bridge), jump("host"))
	base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource).
		rule(origin(m.subnet), notToLink(m.bridge), []expr.Any{&expr.Masq{}})
	return nil
}

// rateMemory is how long it takes until a sandbox that opened all the connections it may open at once may do so again.
// It must be no less than what the rate of openRules takes for that.
const rateMemory = time.Minute

// openRules are the chain in which a sandbox opens a connection, and where it is bounded how many of the host's table
// of connections (nf_conntrack_max) it takes: a sandbox that fills that takes the network from all others. Nothing else
// makes an entry there: a packet that is refused or dropped leaves none, and neither do replies.
//
// Two bounds, because the kernel's count (ct count) leaves out TCP connections that were closed, although their entries
// stay for up to two minutes more (nf_conntrack_tcp_timeout_time_wait). So beside the connections that are open at a time,
// maxConnections, those that are opened are bounded too: as many at once, and twice as many in a minute. That makes at
// most eight times maxConnections entries, a minute for the kernel's sweeping included.
//
// What is beyond is dropped and not refused, as it is a matter of time: TCP and resolvers try again by themselves. The rate
// comes first, as counting costs the kernel more, and so that no flood gets there.
func (m *Manager) openRules(tx *nftables.Conn) error {
	table := m.inetTable()
	rates, connections := m.ratesOf(table), m.connectionsOf(table)
	for _, set := range []*nftables.Set{rates, connections} {
		if err := tx.AddSet(set, nil); err != nil {
			return err
		}
	}
	open := chain{tx, tx.AddChain(&nftables.Chain{Name: openChain, Table: table})}
	open.rule(senderExceedsRate(rates, 2*uint64(m.maxConnections), m.maxConnections), count(), verdict(expr.VerdictDrop))
	open.rule(senderExceedsCount(connections, m.maxConnections), count(), verdict(expr.VerdictDrop))
	open.rule(verdict(expr.VerdictAccept))
	return nil
}

// splitExceptions returns those within the link-local range, and the others.
func splitExceptions(all []Exception) (local, other []Exception) {
	for _, e := range all {
		if linkLocal().Contains(e.Prefix.Addr()) && e.Prefix.Bits() >= linkLocal().Bits() {
			local = append(local, e)
		} else {
			other = append(other, e)
		}
	}
	return local, other
}

// source is the set element that lets a sandbox's packets pass. Its comment is the sandbox's id.
func source(bridge, id string, addr netip.Addr) nftables.SetElement {
	key := make([]byte, sourceKeySize)
	copy(key, portName(bridge, id))
	copy(key[ifnameSize:], macOf(addr))
	ip := addr.As4()
	copy(key[sourceKeySize-len(ip):], ip[:])
	return nftables.SetElement{Key: key, Comment: id}
}

// sourceAddr is the IP address in a source.
func sourceAddr(s nftables.SetElement) netip.Addr {
	return netip.AddrFrom4([4]byte(s.Key[sourceKeySize-4:]))
}

func serverElements(servers []netip.Addr) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, server := range servers {
		elements = append(elements, nftables.SetElement{Key: server.AsSlice()})
	}
	return elements
}

func (m *Manager) addSource(id string, addr netip.Addr) error {
	return m.netfilter.change(func(tx *nftables.Conn) error {
		return tx.SetAddElements(m.sourcesOf(m.bridgeTable()), []nftables.SetElement{source(m.bridge, id, addr)})
	})
}

// removeSource takes an element back, and what the kernel noted of its address; it succeeds when there is none, or no
// table.
func (m *Manager) removeSource(element nftables.SetElement) error {
	err := m.netfilter.change(func(tx *nftables.Conn) error {
		noted := []nftables.SetElement{{Key: sourceAddr(element).AsSlice()}}
		for _, set := range []*nftables.Set{m.ratesOf(m.inetTable()), m.connectionsOf(m.inetTable())} {
			err := tx.SetAddElements(set, noted) // or removing it would fail when there is none
			if err == nil {
				err = tx.SetDeleteElements(set, noted)
			}
			if err != nil {
				return err
			}
		}
		return tx.SetDeleteElements(m.sourcesOf(m.bridgeTable()), []nftables.SetElement{element})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing %s from the rules: %w", element.Comment, err)
	}
	return nil
}

// sources lists the elements; none when there is no table.
func (m *Manager) sources() ([]nftables.SetElement, error) {
	tx, err := transaction()
	if err != nil {
		return nil, err
	}
	table := m.bridgeTable()
	if there, err := installed(tx, table); err != nil || !there {
		return nil, err
	}
	elements, err := tx.GetSetElements(m.sourcesOf(table))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(elements, func(e nftables.SetElement) bool { return len(e.Key) != sourceKeySize }), nil
}

func (m *Manager) addServers(servers []netip.Addr) error {
	return m.netfilter.change(func(tx *nftables.Conn) error {
		return tx.SetAddElements(m.serversOf(m.inetTable()), serverElements(servers))
	})
}

// rulesInstalled says whether both tables are there. Only a flush by someone else takes them away.
func (m *Manager) rulesInstalled() (bool, error) {
	tx, err := transaction()
	if err != nil {
		return false, err
	}
	for _, table := range []*nftables.Table{m.inetTable(), m.bridgeTable()} {
		if there, err := installed(tx, table); err != nil || !there {
			return false, err
		}
	}
	return true, nil
}

// installed says whether a table is there.
func installed(tx *nftables.Conn, table *nftables.Table) (bool, error) {
	tables, err := tx.ListTablesOfFamily(table.Family)
	if err != nil {
		return false, fmt.Errorf("listing the nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == table.Name }), nil
}

func (m *Manager) removeRules() error {
	tx, err := transaction()
	if err != nil {
		return err
	}
	for _, table := range []*nftables.Table{m.inetTable(), m.bridgeTable()} {
		tx.AddTable(table)
		tx.DelTable(table)
	}
	return tx.Flush()
}

// ForwardBlockers names the nftables chains of this host that drop forwarded packets by policy, such as the one
// that Docker sets up ("table ip filter, chain FORWARD"). Sandboxes reach nothing until these let the bridge
// through: our own tables cannot overrule them. Chains of the legacy iptables are not seen.
func ForwardBlockers() ([]string, error) {
	tx, err := transaction()
	if err != nil {
		return nil, err
	}
	var found []string
	for family, name := range map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"} {
		chains, err := tx.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("listing the chains of family %s: %w", name, err)
		}
		for _, c := range chains {
			if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				found = append(found, fmt.Sprintf("table %s %s, chain %s", name, c.Table.Name, c.Name))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}
