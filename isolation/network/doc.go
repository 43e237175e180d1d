// Package network gives every sandbox its network: in mode "nat" one port of a bridge from which only the internet
// and the configured name servers can be reached. At the process level the port is a veth pair into a namespace
// of its own, at the hypervisor level a tap device whose other end a virtual machine inherits. The rules are the
// same: they know names of ports, and those do not tell the level.
//
// It owns the bridge, its ports, the namespaces, the sandboxes' addresses and two nftables tables (families
// inet and bridge), all named after the bridge. It never changes a link, table or route that it did not make;
// the one thing of the host that it does change is net.ipv4.ip_forward, which it switches on (and logs) because
// NAT needs it, and leaves on. One Manager per bridge at a time; managers of different bridges and subnets do
// not meet. Package jobs is its caller.
//
// # What a sandbox can reach
//
// Mode "none" is a namespace with nothing but loopback, or a guest without an interface. Mode "nat" is enforced
// on the host, where a sandbox cannot reach the rules:
//
//   - Public IPv4 addresses, masqueraded behind the host's. Nothing outside can open a connection inwards.
//   - The name servers, on port 53 only, wherever they are, the host included.
//   - Private, link-local (169.254.0.0/16 with its cloud metadata service), shared, multicast and reserved
//     ranges are refused, except for what Options.Allow names. An entry opens the host itself only when
//     it names that single address, and link-local addresses only when it lies within them.
//   - The host is refused on all its addresses, public ones included.
//   - Other sandboxes are unreachable: bridge ports are isolated (layer 2) and forwarding from the bridge back
//     to it is dropped (layer 3).
//   - A frame whose source address, IP or MAC, in the IP or the ARP header, is not the one given to that port is
//     dropped, and so is everything that is neither IPv4 nor ARP. There is no IPv6 in sandboxes but ::1.
//
// How many connections a sandbox may have open, and open in a minute, is bounded: see Options.MaxConnections. What is
// beyond is dropped, so that no sandbox fills the host's table of connections.
//
// Refused connections are answered (TCP reset or ICMP "administratively prohibited"), so that a job fails at once
// instead of timing out.
//
// # What it cannot do
//
// A chain of nftables can only refuse for certain: accepting a packet here does not overrule another table that
// drops it. Docker, ufw and firewalld may set the FORWARD policy to drop, and sandboxes then reach nothing
// until the administrator lets the bridge through (for Docker: iptables -I DOCKER-USER -i BRIDGE -j ACCEPT and
// the same with -o). ForwardBlockers finds such chains for `airlock doctor`. Addresses that Docker publishes on the
// host are refused too, as what they lead to is private.
//
// Flushing the whole ruleset (`nft flush ruleset`, a restart of nftables.service) removes our tables as well. They
// are made again by the next Attach or Attached, which the reaper calls every minute.
//
// # What is left when the executor dies
//
// Namespaces are held by an open file of the Manager and by the sandbox's processes; they are never bind-mounted.
// When both are gone the kernel removes the namespace and the veth pair in it. A tap device is not persistent: it
// goes when the Manager and the virtual machine's process have closed its one descriptor. Entries of the nftables
// set of allowed sources may stay: they name a link that no longer exists, and go with Detach or the next start.
package network
