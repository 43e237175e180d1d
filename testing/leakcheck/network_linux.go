package leakcheck

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

// links looks at the network interfaces of the test's network namespace.
func links(Options) (things, error) {
	var list []netlink.Link
	err := retry(func() (err error) { list, err = netlink.LinkList(); return err })
	if err != nil {
		return nil, err
	}
	found := things{}
	for _, link := range list {
		found.add(link.Attrs().Name+" ("+link.Type()+")", link.Attrs().Alias)
	}
	return found, nil
}

// ruleset looks at all nftables tables of the test's network namespace with their chains, rules, sets and
// elements. Counters' values are left out: they count traffic, which leaks nothing.
func ruleset(Options) (things, error) {
	var found things
	err := retry(func() (err error) { found, err = readRuleset(); return err })
	return found, err
}

// retry repeats a netlink dump that another change of the host may have interrupted.
func retry(dump func() error) (err error) {
	for range 5 {
		if err = dump(); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func readRuleset() (things, error) {
	found := things{}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	for _, table := range tables {
		found.add(tableName(table), "")
		if err := addSets(conn, table, found); err != nil {
			return nil, err
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	for _, chain := range chains {
		name := tableName(chain.Table) + " chain " + chain.Name
		found.add(name, string(chain.Type))
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("listing the rules of %s: %w", name, err)
		}
		for _, rule := range rules {
			found.add(name+" rule "+ruleText(rule), "")
		}
	}
	return found, nil
}

// addSets adds the sets of a table, and the elements of those that only an administrator fills.
func addSets(conn *nftables.Conn, table *nftables.Table, found things) error {
	sets, err := conn.GetSets(table)
	if err != nil {
		return fmt.Errorf("listing the sets of %s: %w", tableName(table), err)
	}
	for _, set := range sets {
		name := tableName(table) + " set " + set.Name
		found.add(name, "")
		if set.Dynamic || set.HasTimeout {
			continue
		}
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("listing the elements of %s: %w", name, err)
		}
		for _, element := range elements {
			found.add(fmt.Sprintf("%s element %x %x", name, element.Key, element.Val), "")
		}
	}
	return nil
}

func tableName(table *nftables.Table) string {
	families := map[nftables.TableFamily]string{
		nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
		nftables.TableFamilyARP: "arp", nftables.TableFamilyBridge: "bridge", nftables.TableFamilyNetdev: "netdev",
	}
	return "table " + families[table.Family] + " " + table.Name
}

// ruleText writes a rule's expressions so that equal rules read equal.
func ruleText(rule *nftables.Rule) string {
	text := ""
	for _, e := range rule.Exprs {
		switch counting := e.(type) {
		case *expr.Counter:
			e = &expr.Counter{}
		case *expr.Quota:
			e = &expr.Quota{Bytes: counting.Bytes, Over: counting.Over}
		}
		content, err := json.Marshal(e)
		if err != nil {
			content = fmt.Appendf(nil, "%+v", e)
		}
		text += fmt.Sprintf("%T%s ", e, content)
	}
	return text
}
