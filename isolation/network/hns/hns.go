// Package hns gives sandboxes on Windows their network: endpoints of one NAT network in the Host Networking Service.
//
// It owns that network and the endpoints whose names begin with airlock-. It never touches a network or an endpoint of
// another name, and never keeps an endpoint that no sandbox has. Its caller is isolation/network, which is how package
// jobs reaches it. Everything that calls the service stands in service_windows.go; the rest is tested on any system.
//
// Version 1 of the service's interface is used, as moby does, because it goes with the version 1 documents of
// containers. A NAT network does not survive a reboot since Windows Server 2019, and endpoints survive their host's
// death: so the network is made when it is missing, and endpoints are swept.
package hns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/internal/fault"
)

// prefix is what the names of our endpoints begin with; the sandbox's id follows.
const prefix = "airlock-"

// Options are what the administrator configured, checked.
type Options struct {
	// Name is the network's.
	Name string
	// Subnet is the sandboxes' IPv4 network; the gateway has its first address.
	Subnet netip.Prefix
	// Allow are destinations that sandboxes may reach although they are not the public internet.
	Allow []Destination
	// DNS are name servers; none: those of the host, asked for each endpoint.
	DNS []netip.Addr
	// Suffix is the endpoints' own domain, of which an endpoint has one; the list of search domains is the container's.
	Suffix string
	Logger zerolog.Logger
}

// Destination is a network, at one port or, with 0, at all.
type Destination struct {
	Prefix netip.Prefix
	Port   uint16
}

// service is the Host Networking Service, as far as it is used here. An error that wraps errNotFound says that there
// is no such thing.
type service interface {
	Networks() ([]network, error)
	CreateNetwork(name, subnet, gateway string) (network, error)
	DeleteNetwork(id string) error
	Endpoints() ([]endpoint, error)
	CreateEndpoint(e endpoint) (endpoint, error)
	DeleteEndpoint(id string) error
}

type network struct{ ID, Name, Type, Subnet string }

// endpoint is one to be made; of those that there are, only ID and Name are told.
type endpoint struct {
	ID, Name, Network string
	DNS               string // comma separated
	Suffix            string
	Rules             []rule
}

// rule is one entry of an endpoint's access list, for what goes out. The lower the priority's number, the sooner it
// is looked at; what no entry is about is refused, as soon as there is one (Windows-Containers#616).
type rule struct {
	Block    bool
	To       string // networks, comma separated; empty: everywhere
	Protocol uint16 // of IP; 0: that of no port
	Port     uint16
	Priority uint16
}

var errNotFound = errors.New("there is none")

// Networks is the network with its endpoints. Its methods may be called concurrently.
type Networks struct {
	opts        Options
	service     service
	hostServers func() ([]netip.Addr, error)

	mu sync.Mutex // held while something is made or removed
}

func open(opts Options, s service, hostServers func() ([]netip.Addr, error)) *Networks {
	return &Networks{opts: opts, service: &bounded{service: s, patience: patience}, hostServers: hostServers}
}

// refused are the networks that are not the public internet, as on Linux: private, shared, link-local with the cloud
// metadata service, loopback, multicast and reserved ones.
const refused = "0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12,192.0.0.0/24,192.168.0.0/16,198.18.0.0/15,224.0.0.0/4,240.0.0.0/4"

// The protocols of IP that have ports, and what the service takes for all protocols where no network is named either
// (hcsshim#1059).
const (
	tcp         = 6
	udp         = 17
	anyProtocol = 256
)

// rules is an endpoint's access list: what is allowed, the name servers on port 53, then what is refused, then the rest.
func rules(opts Options, servers []netip.Addr) []rule {
	var list []rule
	allow := func(to string, port uint16) {
		protocols := []uint16{0}
		if port != 0 {
			protocols = []uint16{tcp, udp}
		}
		for _, p := range protocols {
			list = append(list, rule{To: to, Protocol: p, Port: port, Priority: 100})
		}
	}
	for _, d := range opts.Allow {
		allow(d.Prefix.String(), d.Port)
	}
	for _, server := range servers {
		allow(netip.PrefixFrom(server, server.BitLen()).String(), 53)
	}
	list = append(list, rule{Block: true, To: refused, Priority: 200})
	return append(list, rule{Protocol: anyProtocol, Priority: 300})
}

// servers are the name servers of an endpoint that is made now.
func (n *Networks) servers() ([]netip.Addr, error) {
	if len(n.opts.DNS) > 0 {
		return n.opts.DNS, nil
	}
	servers, err := n.hostServers()
	if err != nil {
		return nil, fault.Systemf("asking for this host's name servers: %w", err)
	}
	if len(servers) == 0 {
		return nil, fault.WithRemedy(fault.Adminf("no network adapter of this host has a name server that a sandbox can reach (IPv4, not loopback)"),
			"name some: dns")
	}
	return servers, nil
}

// Prepare makes the network when it is missing. One of that name with another subnet is an administrator's to remove.
func (n *Networks) Prepare(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, err := n.prepare()
	return err
}

// prepare returns the network's id.
func (n *Networks) prepare() (id string, err error) {
	all, err := n.service.Networks()
	if err != nil {
		return "", fault.Systemf("listing networks: %w", err)
	}
	subnet := n.opts.Subnet.String()
	for _, found := range all {
		if found.Name != n.opts.Name {
			continue
		}
		if !strings.EqualFold(found.Type, "nat") || found.Subnet != subnet {
			return "", fault.WithRemedy(fault.Adminf("there is a network %s of type %s with %s, not a NAT with %s", found.Name, found.Type, found.Subnet, subnet),
				"remove it (Get-HnsNetwork | ? Name -eq "+n.opts.Name+" | Remove-HnsNetwork), or set another bridge in [network]")
		}
		return found.ID, nil
	}
	made, err := n.service.CreateNetwork(n.opts.Name, subnet, n.opts.Subnet.Addr().Next().String())
	if err != nil {
		return "", fault.WithRemedy(fault.Systemf("making the network %s with %s: %w", n.opts.Name, subnet, err),
			"see whether another NAT network has an overlapping subnet (Get-NetNat), and set another subnet in [network]")
	}
	n.opts.Logger.Info().Str("network", n.opts.Name).Str("subnet", subnet).Msg("network made")
	return made.ID, nil
}

// Attach makes a sandbox's endpoint and returns its id. When it fails, nothing is left.
func (n *Networks) Attach(ctx context.Context, id string) (endpointID string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return "", fault.Systemf("attaching sandbox %s: %w", id, context.Cause(ctx))
	}
	// Each time: the network goes when the networking service is restarted.
	network, err := n.prepare()
	if err != nil {
		return "", err
	}
	existing, err := n.named(prefix + id)
	if err != nil {
		return "", err
	}
	if len(existing) > 0 {
		return "", fault.WithRemedy(fault.Systemf("sandbox %s has a network already", id), "detach it first")
	}
	servers, err := n.servers()
	if err != nil {
		return "", err
	}
	names := make([]string, len(servers))
	for i, server := range servers {
		names[i] = server.String()
	}
	made, err := n.service.CreateEndpoint(endpoint{
		Name: prefix + id, Network: network, DNS: strings.Join(names, ","), Suffix: n.opts.Suffix, Rules: rules(n.opts, servers),
	})
	if err != nil {
		// What the service made before it failed has the name.
		return "", errors.Join(fault.Systemf("attaching sandbox %s: %w", id, err), n.detach(id))
	}
	return made.ID, nil
}

// Detach removes a sandbox's endpoints, whoever made them; it succeeds when there is none.
func (n *Networks) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.detach(id)
}

func (n *Networks) detach(id string) error {
	found, err := n.named(prefix + id)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range found {
		if err := n.service.DeleteEndpoint(e.ID); err != nil && !errors.Is(err, errNotFound) {
			errs = append(errs, fault.Systemf("detaching sandbox %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Networks) named(name string) ([]endpoint, error) {
	all, err := n.service.Endpoints()
	if err != nil {
		return nil, fault.Systemf("listing endpoints: %w", err)
	}
	return slices.DeleteFunc(all, func(e endpoint) bool { return e.Name != name }), nil
}

// Attached returns the ids of all sandboxes with an endpoint, those of earlier processes included.
func (n *Networks) Attached(context.Context) ([]string, error) {
	all, err := n.service.Endpoints()
	if err != nil {
		return nil, fault.Systemf("listing endpoints: %w", err)
	}
	var ids []string
	for _, e := range all {
		if id, ours := strings.CutPrefix(e.Name, prefix); ours && id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Remove gives the network back, unless a sandbox still has an endpoint in it.
func (n *Networks) Remove(ctx context.Context) error {
	ids, err := n.Attached(ctx)
	if err != nil || len(ids) > 0 {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	all, err := n.service.Networks()
	if err != nil {
		return fault.Systemf("listing networks: %w", err)
	}
	for _, found := range all {
		if found.Name != n.opts.Name {
			continue
		}
		if err := n.service.DeleteNetwork(found.ID); err != nil && !errors.Is(err, errNotFound) {
			return fmt.Errorf("removing the network %s: %w", found.Name, err)
		}
	}
	return nil
}
