package service

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
)

// hnsNetwork and hnsEndpoint are the documents of HNS v1. Source: hcsshim internal/hns/hnsnetwork.go and
// hnsendpoint.go.
type hnsNetwork struct {
	ID, Name, Type       string            `json:",omitempty"`
	NetworkAdapterName   string            `json:",omitempty"`
	SourceMac            string            `json:",omitempty"`
	Policies             []json.RawMessage `json:",omitempty"`
	MacPools             []json.RawMessage `json:",omitempty"`
	Subnets              []hnsSubnet       `json:",omitempty"`
	DNSSuffix            string            `json:",omitempty"`
	DNSServerList        string            `json:",omitempty"`
	DNSServerCompartment uint32            `json:",omitempty"`
	ManagementIP         string            `json:",omitempty"`
	AutomaticDNS         bool              `json:",omitempty"`
}

type hnsSubnet struct {
	AddressPrefix, GatewayAddress string
	Policies                      []json.RawMessage `json:",omitempty"`
}

type hnsEndpoint struct {
	ID, Name, VirtualNetwork, VirtualNetworkName string            `json:",omitempty"`
	Policies                                     []json.RawMessage `json:",omitempty"`
	MacAddress, IPAddress                        string            `json:",omitempty"`
	DNSSuffix, DNSServerList, DNSDomain          string            `json:",omitempty"`
	GatewayAddress                               string            `json:",omitempty"`
	EnableInternalDNS, DisableICC                bool              `json:",omitempty"`
	PrefixLength                                 uint8             `json:",omitempty"`
	EnableLowMetric                              bool              `json:",omitempty"`
	SharedContainers                             []string          `json:",omitempty"`
	State                                        uint16            `json:",omitempty"`
}

// hnsACL is an entry of an endpoint's access list, the only policy that is simulated. Source: hcsshim
// internal/hns/hnspolicy.go, ACLPolicy.
type hnsACL struct {
	Type, Id                        string
	Protocol                        uint16
	Protocols                       string
	InternalPort                    uint16
	Action, Direction               string
	LocalAddresses, RemoteAddresses string
	LocalPorts                      string
	LocalPort                       uint16
	RemotePorts                     string
	RemotePort                      uint16
	RuleType                        string
	Priority                        uint16
	ServiceName                     string
}

// checkAccess checks an endpoint's policies: they restrict nothing here, so that reading them is all.
func checkAccess(policies []json.RawMessage) error {
	for _, policy := range policies {
		var kind struct{ Type string }
		if err := json.Unmarshal(policy, &kind); err != nil || kind.Type != "ACL" {
			return broken(RuleUnsimulated, NotSupported, "a policy of type %q", kind.Type)
		}
		var acl hnsACL
		if err := strictly(policy, &acl); err != nil {
			return err
		}
		if !slices.Contains([]string{"Allow", "Block"}, acl.Action) || !slices.Contains([]string{"In", "Out"}, acl.Direction) ||
			!slices.Contains([]string{"", "Host", "Switch"}, acl.RuleType) {
			return broken(RuleEndpointDocument, InvalidArg, "the policy %s: action, direction or type of rule", policy)
		}
	}
	return nil
}

// hnsVersion is the service's version of a build. Source: hcsshim hcn/hcnglobals.go names what each version brought; which
// Windows has which one is a guess.
func hnsVersion(build int) map[string]int {
	switch {
	case build < 20348:
		return map[string]int{"Major": 9, "Minor": 5}
	case build < 26100:
		return map[string]int{"Major": 13, "Minor": 2}
	default:
		return map[string]int{"Major": 15, "Minor": 4}
	}
}

// hnsCall is HNS v1: a method and a path, as of HTTP. What fails does so in the answer, not by the HRESULT.
func (s *Service) hnsCall(c *call) ([]any, error) {
	output, err := s.hnsRequest(c.text(0), strings.Trim(c.text(1), "/"), c.text(2))
	answer := map[string]any{"Success": err == nil}
	if err != nil {
		answer["Error"] = err.Error()
		if refusal, ok := errors.AsType[*Refusal](err); ok && refusal.Rule != "" {
			s.broken = append(s.broken, err)
		}
	} else if output != nil {
		answer["Output"] = output
	}
	text, err := json.Marshal(answer)
	return []any{string(text)}, err
}

func (s *Service) hnsRequest(method, path, body string) (any, error) {
	kind, id, _ := strings.Cut(path, "/")
	switch method + " " + kind {
	case "GET globals":
		return hnsVersion(s.config.Build), nil
	case "GET networks":
		return hnsGet(s.networks.networks, id, s.hnsNetwork, NetworkMissing)
	case "GET endpoints":
		return hnsGet(s.networks.endpoints, id, s.hnsEndpoint, EndpointMissing)
	case "POST networks":
		return s.hnsPostNetwork(body)
	case "POST endpoints":
		if id != "" {
			return nil, broken(RuleFunction, NotImplemented, "POST %s is not simulated", path)
		}
		return s.hnsPostEndpoint(body)
	case "DELETE networks":
		return nil, s.removeNetwork(id)
	case "DELETE endpoints":
		return nil, s.removeEndpoint(id)
	}
	return nil, broken(RuleFunction, NotImplemented, "%s %s is not simulated", method, path)
}

func hnsGet[T any](all map[string]T, id string, show func(T) any, missing HRESULT) (any, error) {
	if id == "" {
		list := []any{}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			list = append(list, show(all[key]))
		}
		return list, nil
	}
	found, ok := all[strings.ToLower(id)]
	if !ok {
		return nil, refuse(missing, "Element not found.")
	}
	return show(found), nil
}

func (s *Service) hnsPostNetwork(body string) (any, error) {
	var doc hnsNetwork
	if err := strictly([]byte(body), &doc); err != nil {
		return nil, err
	}
	if len(doc.Policies) > 0 {
		return nil, broken(RuleUnsimulated, NotSupported, "policies of a network")
	}
	nw := &network{
		id: strings.ToLower(doc.ID), name: doc.Name, kind: doc.Type, suffix: doc.DNSSuffix, nameservers: split(doc.DNSServerList),
	}
	for _, sub := range doc.Subnets {
		if err := nw.addSubnet(sub.AddressPrefix, sub.GatewayAddress); err != nil {
			return nil, err
		}
	}
	if err := s.addNetwork(nw); err != nil {
		return nil, err
	}
	return s.hnsNetwork(nw), nil
}

func (s *Service) hnsPostEndpoint(body string) (any, error) {
	var doc hnsEndpoint
	if err := strictly([]byte(body), &doc); err != nil {
		return nil, err
	}
	if err := checkAccess(doc.Policies); err != nil {
		return nil, err
	}
	e := &endpoint{
		id: strings.ToLower(doc.ID), name: doc.Name, network: doc.VirtualNetwork, mac: doc.MacAddress,
		nameservers: split(doc.DNSServerList), suffix: doc.DNSSuffix, policies: doc.Policies,
	}
	if err := e.askFor(doc.IPAddress); err != nil {
		return nil, err
	}
	if err := s.addEndpoint(e); err != nil {
		return nil, err
	}
	return s.hnsEndpoint(e), nil
}

func (s *Service) hnsNetwork(nw *network) any {
	doc := hnsNetwork{
		ID: s.vary.guid(nw.id), Name: nw.name, Type: nw.kind, DNSSuffix: nw.suffix,
		DNSServerList: strings.Join(nw.nameservers, ","),
	}
	for _, sub := range nw.subnets {
		doc.Subnets = append(doc.Subnets, hnsSubnet{AddressPrefix: sub.prefix.String(), GatewayAddress: sub.gateway.String()})
	}
	return doc
}

// hnsEndpoint shows an endpoint. State: 1 created, 2 attached.
func (s *Service) hnsEndpoint(e *endpoint) any {
	doc := hnsEndpoint{
		ID: s.vary.guid(e.id), Name: e.name, VirtualNetwork: s.vary.guid(e.network), MacAddress: e.mac,
		DNSSuffix: e.suffix, DNSServerList: strings.Join(e.nameservers, ","), Policies: e.policies, State: 1,
	}
	if nw := s.networks.networks[e.network]; nw != nil {
		doc.VirtualNetworkName = nw.name
	}
	if e.address.IsValid() {
		doc.IPAddress, doc.GatewayAddress, doc.PrefixLength = e.address.String(), e.gateway.String(), uint8(e.bits)
	}
	if e.user != "" {
		doc.State, doc.SharedContainers = 2, []string{e.user}
	}
	return doc
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
