package service

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// networks are those of the Host Networking Service. Both of its interfaces, HNS v1 (hns.go) and HCN (hcn.go), see the
// same ones by the same ids.
type networks struct {
	networks  map[string]*network // by id, in lower case
	endpoints map[string]*endpoint
	macs      int
}

type network struct {
	id, name, kind string
	subnets        []subnet
	nameservers    []string
	suffix         string
}

type subnet struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

type endpoint struct {
	id, name, network string
	address           netip.Addr
	bits              int
	gateway           netip.Addr
	mac               string
	nameservers       []string
	suffix            string
	policies          []json.RawMessage
	user              string // the system that it is attached to
}

// The handles of HCN.
type (
	networkHandle  struct{ id string }
	endpointHandle struct{ id string }
)

// networkTypes are those that there are. Only NAT networks hand out addresses here. Source: hcsshim hcn/hcnnetwork.go.
var networkTypes = []string{"nat", "transparent", "l2bridge", "l2tunnel", "ics", "private", "overlay"}

func (n *networks) init() {
	n.networks, n.endpoints = map[string]*network{}, map[string]*endpoint{}
}

func (n *networks) reboot() {
	maps.DeleteFunc(n.networks, func(_ string, nw *network) bool { return strings.EqualFold(nw.kind, "nat") })
	for _, e := range n.endpoints {
		e.user = ""
	}
}

// addSubnet reads a subnet of a document.
func (nw *network) addSubnet(prefix, gateway string) error {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return broken(RuleNetwork, InvalidArg, "%v", err)
	}
	g, err := netip.ParseAddr(gateway)
	if err != nil {
		return broken(RuleNetwork, InvalidArg, "%v", err)
	}
	nw.subnets = append(nw.subnets, subnet{p, g})
	return nil
}

// askFor reads the address that a document asks for, if any.
func (e *endpoint) askFor(address string) error {
	if address == "" {
		return nil
	}
	var err error
	if e.address, err = netip.ParseAddr(address); err != nil {
		return broken(RuleEndpointDocument, InvalidArg, "%v", err)
	}
	return nil
}

// addNetwork checks a network and adds it.
func (s *Service) addNetwork(nw *network) error {
	if !slices.Contains(networkTypes, strings.ToLower(nw.kind)) {
		return broken(RuleNetwork, InvalidArg, "there is no type %q", nw.kind)
	}
	if nw.id == "" {
		nw.id = s.vary.newGUID("a network").String()
	}
	if len(nw.subnets) == 0 && strings.EqualFold(nw.kind, "nat") { // it chooses one itself
		prefix := netip.MustParsePrefix(fmt.Sprintf("172.%d.0.0/20", 28+len(s.networks.networks)%3))
		nw.subnets = []subnet{{prefix, prefix.Addr().Next()}}
	}
	for _, other := range s.networks.networks {
		if other.id == nw.id || nw.name != "" && other.name == nw.name {
			return refuse(NetworkExists, "there is a network %s already", nw.name)
		}
		for _, a := range nw.subnets {
			for _, b := range other.subnets {
				if a.prefix.Overlaps(b.prefix) {
					return broken(RuleNetwork, InvalidArg, "%s overlaps %s of %s", a.prefix, b.prefix, other.name)
				}
			}
		}
	}
	for _, sub := range nw.subnets {
		if !sub.prefix.Contains(sub.gateway) {
			return broken(RuleNetwork, InvalidArg, "the gateway %s is not in %s", sub.gateway, sub.prefix)
		}
	}
	s.networks.networks[nw.id] = nw
	return nil
}

func (s *Service) removeNetwork(id string) error {
	nw := s.networks.networks[strings.ToLower(id)]
	if nw == nil {
		return refuse(NetworkMissing, "there is no network %s", id)
	}
	for _, e := range s.networks.endpoints {
		if e.network == nw.id {
			return broken(RuleNetwork, Sharing, "the network %s has the endpoint %s", nw.name, e.name)
		}
	}
	delete(s.networks.networks, nw.id)
	return nil
}

// addEndpoint checks an endpoint, gives it what it did not ask for, and adds it.
func (s *Service) addEndpoint(e *endpoint) error {
	nw := s.networks.networks[strings.ToLower(e.network)]
	if nw == nil {
		return broken(RuleEndpointDocument, NetworkMissing, "there is no network %s", e.network)
	}
	e.network = nw.id
	if e.id == "" {
		e.id = s.vary.newGUID("an endpoint").String()
	}
	if s.networks.endpoints[e.id] != nil {
		return refuse(AlreadyExists, "there is an endpoint %s already", e.id)
	}
	if err := s.address(e, nw); err != nil {
		return err
	}
	if e.mac == "" {
		s.networks.macs++
		e.mac = fmt.Sprintf("00-15-5D-00-%02X-%02X", s.networks.macs>>8, s.networks.macs&0xff)
	}
	if len(e.nameservers) == 0 {
		e.nameservers = nw.nameservers
	}
	if e.suffix == "" {
		e.suffix = nw.suffix
	}
	s.networks.endpoints[e.id] = e
	return nil
}

func (s *Service) address(e *endpoint, nw *network) error {
	taken := map[netip.Addr]bool{}
	for _, other := range s.networks.endpoints {
		taken[other.address] = true
	}
	for _, sub := range nw.subnets {
		taken[sub.gateway], taken[sub.prefix.Masked().Addr()] = true, true
		if e.address.IsValid() {
			if !sub.prefix.Contains(e.address) {
				continue
			}
			if taken[e.address] {
				return broken(RuleEndpointDocument, InvalidArg, "the address %s is in use", e.address)
			}
			e.bits, e.gateway = sub.prefix.Bits(), sub.gateway
			return nil
		}
		for a := sub.prefix.Masked().Addr(); sub.prefix.Contains(a); a = a.Next() {
			if !taken[a] {
				e.address, e.bits, e.gateway = a, sub.prefix.Bits(), sub.gateway
				return nil
			}
		}
	}
	if e.address.IsValid() {
		return broken(RuleEndpointDocument, InvalidArg, "the address %s is in no subnet of %s", e.address, nw.name)
	}
	return nil
}

func (s *Service) removeEndpoint(id string) error {
	e := s.networks.endpoints[strings.ToLower(id)]
	if e == nil {
		return refuse(EndpointMissing, "there is no endpoint %s", id)
	}
	if e.user != "" {
		return broken(RuleEndpointDocument, Sharing, "%s has the endpoint %s", e.user, id)
	}
	delete(s.networks.endpoints, e.id)
	return nil
}
