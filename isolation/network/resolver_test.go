//go:build linux

package network

import (
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestHostResolver(t *testing.T) {
	const (
		stub = "# made by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
		real = "nameserver 10.0.0.53\nnameserver fd00::53\nnameserver 10.0.0.54\nsearch corp.example lan\noptions ndots:2 timeout:1\noptions rotate\n"
	)
	cases := map[string]struct {
		files  map[string]string
		expect resolver
	}{
		"the host's": {map[string]string{"a": real, "b": stub}, parseResolver(real)},
		"behind a stub": {map[string]string{"a": stub, "b": real}, resolver{
			servers: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("10.0.0.54")},
			search:  []string{"corp.example", "lan"}, options: []string{"ndots:2", "timeout:1", "rotate"},
		}},
		"only a stub": {map[string]string{"a": stub}, resolver{}},
		"IPv6 alone":  {map[string]string{"a": "nameserver fd00::53\nnameserver ::1\n"}, resolver{}},
		"nothing":     {nil, resolver{}},
		"rubbish":     {map[string]string{"a": "nameserver\nnameserver x\n\x00\n; nameserver 10.0.0.1\n"}, resolver{}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := hostResolver([]string{"a", "b"}, func(file string) ([]byte, error) {
				if text, ok := c.files[file]; ok {
					return []byte(text), nil
				}
				return nil, os.ErrNotExist
			})
			require.Equal(t, c.expect, got)
		})
	}
}

// Addresses are unique, inside the subnet, never its ends, all of them are given out, and a freed one comes last.
func TestAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(24, 28).Draw(t, "bits")
		subnet := netip.PrefixFrom(netip.MustParseAddr("255.255.255.0"), bits)
		if rapid.Bool().Draw(t, "low") {
			subnet = netip.PrefixFrom(netip.MustParseAddr("172.29.0.0"), bits)
		}
		room := 1<<(32-bits) - 3
		pool := newAddresses(subnet)
		held := map[netip.Addr]bool{}
		var order []netip.Addr
		for range rapid.IntRange(1, 4*room).Draw(t, "steps") {
			if len(order) > 0 && rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				pool.free(order[0])
				delete(held, order[0])
				order = order[1:]
				continue
			}
			addr, ok := pool.take()
			if ok != (len(held) < room) {
				t.Fatalf("take: %v with %d of %d held", ok, len(held), room)
			}
			if !ok {
				continue
			}
			if held[addr] || !subnet.Contains(addr) || addr == subnet.Addr() || addr == subnet.Addr().Next() ||
				!addr.Next().IsValid() || !subnet.Contains(addr.Next()) {
				t.Fatalf("%s of %s", addr, subnet)
			}
			held[addr] = true
			order = append(order, addr)
		}
	})
	pool := newAddresses(netip.MustParsePrefix("172.29.0.0/28"))
	first, _ := pool.take()
	pool.free(first)
	for range 12 {
		next, ok := pool.take()
		require.True(t, ok)
		require.NotEqual(t, first, next)
	}
	last, ok := pool.take()
	require.True(t, ok)
	require.Equal(t, first, last)
}

func TestAliasSaysIDAndAddress(t *testing.T) {
	id, addr, ok := parseAlias(alias("al-0123456789ab", netip.MustParseAddr("172.29.0.5")))
	require.True(t, ok)
	require.Equal(t, "al-0123456789ab", id)
	require.Equal(t, "172.29.0.5", addr.String())
	for _, text := range []string{"", "airlock", "airlock  172.29.0.5", "airlock x y", "uplink a 1.2.3.4", "airlock x ::1"} {
		_, _, ok := parseAlias(text)
		require.False(t, ok, text)
	}
}
