package hns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/Microsoft/hcsshim"
	"golang.org/x/sys/windows"
)

// Open returns the host's network of that name. It changes nothing: see Prepare.
func Open(opts Options) *Networks { return open(opts, networking{}, hostServers) }

// networking is the Host Networking Service.
type networking struct{}

var _ service = networking{}

func (networking) Networks() ([]network, error) {
	list, err := hcsshim.HNSListNetworkRequest("GET", "", "")
	if err != nil {
		return nil, classify(err)
	}
	all := make([]network, 0, len(list))
	for i := range list {
		all = append(all, fromNetwork(&list[i]))
	}
	return all, nil
}

func fromNetwork(n *hcsshim.HNSNetwork) network {
	found := network{ID: n.Id, Name: n.Name, Type: n.Type}
	if len(n.Subnets) == 1 {
		found.Subnet = n.Subnets[0].AddressPrefix
	}
	return found
}

func (networking) CreateNetwork(name, subnet, gateway string) (network, error) {
	document, err := json.Marshal(&hcsshim.HNSNetwork{
		Name: name, Type: "nat", Subnets: []hcsshim.Subnet{{AddressPrefix: subnet, GatewayAddress: gateway}},
	})
	if err != nil {
		return network{}, err
	}
	made, err := hcsshim.HNSNetworkRequest("POST", "", string(document))
	if err != nil {
		return network{}, classify(err)
	}
	return fromNetwork(made), nil
}

func (networking) DeleteNetwork(id string) error {
	_, err := hcsshim.HNSNetworkRequest("DELETE", id, "")
	return classify(err)
}

func (networking) Endpoints() ([]endpoint, error) {
	list, err := hcsshim.HNSListEndpointRequest()
	if err != nil {
		return nil, classify(err)
	}
	all := make([]endpoint, 0, len(list))
	for i := range list {
		all = append(all, fromEndpoint(&list[i]))
	}
	return all, nil
}

func fromEndpoint(e *hcsshim.HNSEndpoint) endpoint { return endpoint{ID: e.Id, Name: e.Name} }

func (networking) CreateEndpoint(e endpoint) (endpoint, error) {
	wanted := &hcsshim.HNSEndpoint{
		Name: e.Name, VirtualNetwork: e.Network, DNSServerList: e.DNS, DNSSuffix: e.Suffix,
		DisableICC: true, // no way to other sandboxes
	}
	for _, r := range e.Rules {
		policy := &hcsshim.ACLPolicy{
			Type: hcsshim.ACL, Action: hcsshim.Allow, Direction: hcsshim.Out, RuleType: hcsshim.Switch,
			RemoteAddresses: r.To, Priority: r.Priority,
		}
		if r.Block {
			policy.Action = hcsshim.Block
		}
		switch {
		case r.Port != 0:
			policy.Protocols, policy.RemotePorts = strconv.Itoa(int(r.Protocol)), strconv.Itoa(int(r.Port))
		case r.Protocol != 0:
			policy.Protocol = r.Protocol
		}
		document, err := json.Marshal(policy)
		if err != nil {
			return endpoint{}, err
		}
		wanted.Policies = append(wanted.Policies, document)
	}
	document, err := json.Marshal(wanted)
	if err != nil {
		return endpoint{}, err
	}
	made, err := hcsshim.HNSEndpointRequest("POST", "", string(document))
	if err != nil {
		return endpoint{}, classify(err)
	}
	return fromEndpoint(made), nil
}

func (networking) DeleteEndpoint(id string) error {
	_, err := hcsshim.HNSEndpointRequest("DELETE", id, "")
	return classify(err)
}

// classify finds out whether there is no such thing: the service answers with a text.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if hcsshim.IsNotExist(err) || strings.Contains(strings.ToLower(err.Error()), "not found") {
		return errors.Join(errNotFound, err)
	}
	return fmt.Errorf("the networking service: %w", err)
}

// hostServers are the name servers of the adapters that are up, in their order.
func hostServers() ([]netip.Addr, error) {
	size := uint32(16 << 10) // as GetAdaptersAddresses' documentation advises; it says when that is too little
	for {
		buffer := make([]byte, size)
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buffer[0]))
		err := windows.GetAdaptersAddresses(windows.AF_INET, windows.GAA_FLAG_SKIP_ANYCAST|windows.GAA_FLAG_SKIP_MULTICAST, 0, first, &size)
		if errors.Is(err, windows.ERROR_BUFFER_OVERFLOW) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var servers []netip.Addr
		for adapter := first; adapter != nil; adapter = adapter.Next {
			if adapter.OperStatus != windows.IfOperStatusUp {
				continue
			}
			for s := adapter.FirstDnsServerAddress; s != nil; s = s.Next {
				server, ok := netip.AddrFromSlice(s.Address.IP().To4())
				if ok && !server.IsLoopback() && !slices.Contains(servers, server) {
					servers = append(servers, server)
				}
			}
		}
		return servers, nil
	}
}
