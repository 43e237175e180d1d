package service

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// hcnNetwork and hcnEndpoint are the documents of HCN, schema 2. Source: hcsshim hcn/hcnnetwork.go and
// hcnendpoint.go.
type hcnNetwork struct {
	ID            string            `json:",omitempty"`
	Name          string            `json:",omitempty"`
	Type          string            `json:",omitempty"`
	Policies      []json.RawMessage `json:",omitempty"`
	MacPool       json.RawMessage   `json:",omitempty"`
	Dns           hcnDNS
	Ipams         []hcnIpam       `json:",omitempty"`
	Flags         uint32          `json:",omitempty"`
	Health        json.RawMessage `json:",omitempty"`
	SchemaVersion hcnVersion
}

type hcnDNS struct {
	Domain                      string   `json:",omitempty"`
	Search, ServerList, Options []string `json:",omitempty"`
}

type hcnIpam struct {
	Type    string      `json:",omitempty"`
	Subnets []hcnSubnet `json:",omitempty"`
}

type hcnSubnet struct {
	IpAddressPrefix string            `json:",omitempty"`
	Policies        []json.RawMessage `json:",omitempty"`
	Routes          []hcnRoute        `json:",omitempty"`
	Flags           uint32            `json:",omitempty"`
}

type hcnRoute struct {
	NextHop, DestinationPrefix string `json:",omitempty"`
	Metric                     uint16 `json:",omitempty"`
}

type hcnVersion struct{ Major, Minor int }

type hcnEndpoint struct {
	ID                   string            `json:",omitempty"`
	Name                 string            `json:",omitempty"`
	HostComputeNetwork   string            `json:",omitempty"`
	HostComputeNamespace string            `json:",omitempty"`
	Policies             []json.RawMessage `json:",omitempty"`
	IpConfigurations     []hcnAddress      `json:",omitempty"`
	Dns                  hcnDNS
	Routes               []hcnRoute      `json:",omitempty"`
	MacAddress           string          `json:",omitempty"`
	Flags                uint32          `json:",omitempty"`
	Health               json.RawMessage `json:",omitempty"`
	SchemaVersion        hcnVersion
}

type hcnAddress struct {
	IpAddress    string `json:",omitempty"`
	PrefixLength uint8  `json:",omitempty"`
}

func (s *Service) createNetwork(c *call) ([]any, error) {
	var doc hcnNetwork
	if err := strictly([]byte(c.text(1)), &doc); err != nil {
		return nil, err
	}
	nw := &network{
		id: strings.ToLower(doc.ID), name: doc.Name, kind: doc.Type, nameservers: doc.Dns.ServerList, suffix: doc.Dns.Domain,
	}
	if nw.id == "" && c.guid(0) != (GUID{}) {
		nw.id = c.guid(0).String()
	}
	if len(doc.Policies) > 0 {
		return nil, broken(RuleUnsimulated, NotSupported, "policies of an HCN network")
	}
	if doc.SchemaVersion.Major != 2 {
		return nil, broken(RuleNetwork, InvalidArg, "the schema's version is %d", doc.SchemaVersion.Major)
	}
	for _, ipam := range doc.Ipams {
		for _, sub := range ipam.Subnets {
			if len(sub.Routes) == 0 {
				return nil, broken(RuleNetwork, InvalidArg, "the subnet %q has no route", sub.IpAddressPrefix)
			}
			if err := nw.addSubnet(sub.IpAddressPrefix, sub.Routes[0].NextHop); err != nil {
				return nil, err
			}
		}
	}
	if err := s.addNetwork(nw); err != nil {
		return nil, err
	}
	return []any{s.open(c.client, &networkHandle{nw.id})}, nil
}

func (s *Service) openNetwork(c *call) ([]any, error) {
	id := c.guid(0).String()
	if s.networks.networks[id] == nil {
		return nil, refuse(NetworkMissing, "there is no network %s", id)
	}
	return []any{s.open(c.client, &networkHandle{id})}, nil
}

func (s *Service) queryNetwork(c *call) ([]any, error) {
	h, err := handle[*networkHandle](c, 0)
	if err != nil {
		return nil, err
	}
	nw := s.networks.networks[h.id]
	if nw == nil {
		return nil, refuse(NetworkMissing, "the network %s is gone", h.id)
	}
	doc := hcnNetwork{
		ID: s.vary.guid(nw.id), Name: nw.name, Type: nw.kind,
		Dns: hcnDNS{Domain: nw.suffix, ServerList: nw.nameservers}, SchemaVersion: hcnVersion{2, 0},
	}
	ipam := hcnIpam{Type: "Static"}
	for _, sub := range nw.subnets {
		ipam.Subnets = append(ipam.Subnets, hcnSubnet{
			IpAddressPrefix: sub.prefix.String(), Routes: []hcnRoute{{NextHop: sub.gateway.String(), DestinationPrefix: "0.0.0.0/0"}},
		})
	}
	doc.Ipams = []hcnIpam{ipam}
	text, err := json.Marshal(doc)
	return []any{string(text)}, err
}

func (s *Service) deleteNetwork(c *call) ([]any, error) {
	return nil, s.removeNetwork(c.guid(0).String())
}

func (s *Service) closeNetworkHandle(c *call) ([]any, error) {
	switch c.client.handles[c.number(0)].(type) {
	case *networkHandle, *endpointHandle:
		s.close(c.client, c.number(0))
		return nil, nil
	}
	return nil, broken(RuleHandle, InvalidHandle, "handle %#x is none of a network or an endpoint", c.number(0))
}

// hcnFilter is what a query asks for. Source: hcsshim hcn/hcn.go, HostComputeQuery; the filter's members are those of
// v1, also for endpoints of a network.
type hcnFilter struct{ ID, Name, VirtualNetwork string }

func parseQuery(text string) (hcnFilter, error) {
	var query struct {
		SchemaVersion hcnVersion
		Flags         uint32
		Filter        string
	}
	var filter hcnFilter
	if err := strictly([]byte(text), &query); err != nil {
		return filter, err
	}
	if query.Filter == "" {
		return filter, nil
	}
	return filter, strictly([]byte(query.Filter), &filter)
}

func (f hcnFilter) matches(id, name, network string) bool {
	return (f.ID == "" || strings.EqualFold(f.ID, id)) && (f.Name == "" || f.Name == name) &&
		(f.VirtualNetwork == "" || strings.EqualFold(f.VirtualNetwork, network))
}

func (s *Service) enumerateNetworks(c *call) ([]any, error) {
	return enumerate(s, c, s.networks.networks, func(nw *network) (string, string) { return nw.name, "" })
}

func (s *Service) enumerateEndpoints(c *call) ([]any, error) {
	return enumerate(s, c, s.networks.endpoints, func(e *endpoint) (string, string) { return e.name, e.network })
}

// enumerate lists the ids of what a query asks for; of each, show tells the name and the network.
func enumerate[T any](s *Service, c *call, all map[string]T, show func(T) (name, network string)) ([]any, error) {
	filter, err := parseQuery(c.text(0))
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if name, network := show(all[id]); filter.matches(id, name, network) {
			ids = append(ids, s.vary.guid(id))
		}
	}
	text, err := json.Marshal(ids)
	return []any{string(text)}, err
}

func (s *Service) createEndpoint(c *call) ([]any, error) {
	h, err := handle[*networkHandle](c, 0)
	if err != nil {
		return nil, err
	}
	var doc hcnEndpoint
	if err := strictly([]byte(c.text(2)), &doc); err != nil {
		return nil, err
	}
	if !strings.EqualFold(doc.HostComputeNetwork, h.id) {
		return nil, broken(RuleEndpointDocument, InvalidArg, "HostComputeNetwork is %q, the handle's %s", doc.HostComputeNetwork, h.id)
	}
	if len(doc.Policies) > 0 {
		return nil, broken(RuleUnsimulated, NotSupported, "policies of an HCN endpoint")
	}
	e := &endpoint{
		id: strings.ToLower(doc.ID), name: doc.Name, network: h.id, mac: doc.MacAddress, nameservers: doc.Dns.ServerList,
		suffix: doc.Dns.Domain, policies: doc.Policies,
	}
	if len(doc.IpConfigurations) > 0 {
		if err := e.askFor(doc.IpConfigurations[0].IpAddress); err != nil {
			return nil, err
		}
	}
	if err := s.addEndpoint(e); err != nil {
		return nil, err
	}
	return []any{s.open(c.client, &endpointHandle{e.id})}, nil
}

func (s *Service) openEndpoint(c *call) ([]any, error) {
	id := c.guid(0).String()
	if s.networks.endpoints[id] == nil {
		return nil, refuse(EndpointMissing, "there is no endpoint %s", id)
	}
	return []any{s.open(c.client, &endpointHandle{id})}, nil
}

func (s *Service) queryEndpoint(c *call) ([]any, error) {
	h, err := handle[*endpointHandle](c, 0)
	if err != nil {
		return nil, err
	}
	e := s.networks.endpoints[h.id]
	if e == nil {
		return nil, refuse(EndpointMissing, "the endpoint %s is gone", h.id)
	}
	doc := hcnEndpoint{
		ID: s.vary.guid(e.id), Name: e.name, HostComputeNetwork: s.vary.guid(e.network), MacAddress: e.mac,
		Policies: e.policies, Dns: hcnDNS{Domain: e.suffix, ServerList: e.nameservers}, SchemaVersion: hcnVersion{2, 0},
	}
	if e.address.IsValid() {
		doc.IpConfigurations = []hcnAddress{{IpAddress: e.address.String(), PrefixLength: uint8(e.bits)}}
		doc.Routes = []hcnRoute{{NextHop: e.gateway.String(), DestinationPrefix: "0.0.0.0/0"}}
	}
	text, err := json.Marshal(doc)
	return []any{string(text)}, err
}

func (s *Service) deleteEndpoint(c *call) ([]any, error) {
	return nil, s.removeEndpoint(c.guid(0).String())
}
