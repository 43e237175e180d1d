package client

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/hcn"
	"github.com/stretchr/testify/require"
)

// inContainer runs a container with an endpoint, and requires that others see it attached.
func inContainer(t *testing.T, id, endpoint string) {
	t.Helper()
	chain := image(t)
	di := scratch(t, id, chain)
	config := argon(t, id, mount(t, di, id, chain), chain)
	config.EndpointList = []string{endpoint}
	start(t, id, config)
	seen, err := hcsshim.GetHNSEndpointByID(endpoint)
	require.NoError(t, err)
	require.Equal(t, []string{id}, seen.SharedContainers)
}

func TestHNS(t *testing.T) {
	globals, err := hcsshim.GetHNSGlobals()
	require.NoError(t, err)
	require.Positive(t, globals.Version.Major)
	request, err := json.Marshal(hcsshim.HNSNetwork{
		Name: "airlock-hns", Type: "nat", Subnets: []hcsshim.Subnet{{AddressPrefix: "172.29.0.0/20", GatewayAddress: "172.29.0.1"}},
	})
	require.NoError(t, err)
	network, err := hcsshim.HNSNetworkRequest("POST", "", string(request))
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := hcsshim.HNSNetworkRequest("DELETE", network.Id, "")
		require.NoError(t, err)
	})
	found, err := hcsshim.GetHNSNetworkByName("airlock-hns")
	require.NoError(t, err)
	require.True(t, strings.EqualFold(network.Id, found.Id))

	request, err = json.Marshal(hcsshim.HNSEndpoint{Name: "airlock-e1", VirtualNetwork: network.Id})
	require.NoError(t, err)
	endpoint, err := hcsshim.HNSEndpointRequest("POST", "", string(request))
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := hcsshim.HNSEndpointRequest("DELETE", endpoint.Id, "")
		require.NoError(t, err)
	})
	_, subnet, _ := net.ParseCIDR("172.29.0.0/20")
	require.True(t, subnet.Contains(endpoint.IPAddress), "%v", endpoint.IPAddress)
	require.Equal(t, "172.29.0.1", endpoint.GatewayAddress)
	t.Run("attached", func(t *testing.T) { inContainer(t, "with-hns", endpoint.Id) })
	_, err = hcsshim.GetHNSEndpointByName("airlock-none")
	require.Error(t, err)
}

func TestHCN(t *testing.T) {
	network, err := (&hcn.HostComputeNetwork{
		Name: "airlock-hcn", Type: hcn.NAT, SchemaVersion: hcn.V2SchemaVersion(),
		Ipams: []hcn.Ipam{{Subnets: []hcn.Subnet{{
			IpAddressPrefix: "172.30.0.0/20", Routes: []hcn.Route{{NextHop: "172.30.0.1", DestinationPrefix: "0.0.0.0/0"}},
		}}}},
	}).Create()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, network.Delete()) })
	found, err := hcn.GetNetworkByName("airlock-hcn")
	require.NoError(t, err)
	require.True(t, strings.EqualFold(network.Id, found.Id))
	require.NoError(t, hcn.V2ApiSupported())

	endpoint, err := (&hcn.HostComputeEndpoint{
		Name: "airlock-e2", HostComputeNetwork: network.Id, SchemaVersion: hcn.V2SchemaVersion(),
	}).Create()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, endpoint.Delete()) })
	all, err := hcn.ListEndpointsOfNetwork(network.Id)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NotEmpty(t, all[0].IpConfigurations)
	t.Run("attached", func(t *testing.T) { inContainer(t, "with-hcn", endpoint.Id) })
	_, err = hcn.GetEndpointByName("airlock-none")
	require.True(t, hcn.IsNotFoundError(err), "%v", err)
}
