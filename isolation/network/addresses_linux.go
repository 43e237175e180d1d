package network

import "net/netip"

// addresses hands out the host addresses of a subnet: all but its own, the first (the bridge's) and the last
// (broadcast). It goes round, so that an address is used again as late as possible. Not safe for
// concurrent use.
type addresses struct {
	subnet netip.Prefix
	last   netip.Addr // the one handed out last
	taken  map[netip.Addr]bool
	others map[netip.Addr]bool // in use by other processes, as far as known
}

func newAddresses(subnet netip.Prefix) *addresses {
	return &addresses{subnet: subnet, last: subnet.Addr().Next(), taken: map[netip.Addr]bool{}}
}

// take returns a free address, or false when there is none.
func (a *addresses) take() (netip.Addr, bool) {
	size := 1 << (32 - a.subnet.Bits())
	for range size {
		a.last = a.last.Next()
		if next := a.last.Next(); !next.IsValid() || !a.subnet.Contains(next) { // a.last is the broadcast address
			a.last = a.subnet.Addr().Next().Next()
		}
		if !a.taken[a.last] && !a.others[a.last] {
			a.taken[a.last] = true
			return a.last, true
		}
	}
	return netip.Addr{}, false
}

// free returns an address.
func (a *addresses) free(addr netip.Addr) { delete(a.taken, addr) }
