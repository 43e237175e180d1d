package hns

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/Microsoft/hcsshim"
)

// Open returns the host's network of that name. It changes nothing: see Prepare.
func Open(opts Options) *Networks { return open(opts, networking{}) }

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
		if r.Protocol != 0 {
			policy.Protocols, policy.RemotePorts = strconv.Itoa(int(r.Protocol)), strconv.Itoa(int(r.Port))
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
