package hns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
)

// fake is a networking service in memory.
type fake struct {
	networks  map[string]network
	endpoints map[string]endpoint
	fail      map[string]error
	last      int
}

func newFake() *fake {
	return &fake{networks: map[string]network{}, endpoints: map[string]endpoint{}, fail: map[string]error{}}
}

func (f *fake) Networks() (list []network, err error) {
	for _, n := range f.networks {
		list = append(list, n)
	}
	return list, f.fail["Networks"]
}

func (f *fake) CreateNetwork(name, subnet, gateway string) (network, error) {
	f.last++
	n := network{ID: fmt.Sprint(f.last), Name: name, Type: "NAT", Subnet: subnet}
	if err := f.fail["CreateNetwork"]; err != nil {
		return network{}, err
	}
	f.networks[n.ID] = n
	return n, nil
}

func (f *fake) DeleteNetwork(id string) error { delete(f.networks, id); return f.fail["DeleteNetwork"] }

func (f *fake) Endpoints() (list []endpoint, err error) {
	for _, e := range f.endpoints {
		list = append(list, e)
	}
	return list, f.fail["Endpoints"]
}

// CreateEndpoint makes the endpoint also when it fails, as the service may.
func (f *fake) CreateEndpoint(e endpoint) (endpoint, error) {
	if _, ok := f.networks[e.Network]; !ok {
		return endpoint{}, errNotFound
	}
	f.last++
	e.ID = fmt.Sprint(f.last)
	f.endpoints[e.ID] = e
	return e, f.fail["CreateEndpoint"]
}

func (f *fake) DeleteEndpoint(id string) error {
	if err := f.fail["DeleteEndpoint"]; err != nil {
		return err
	}
	if _, ok := f.endpoints[id]; !ok {
		return errNotFound
	}
	delete(f.endpoints, id)
	return nil
}

// ownServers are the host's.
func ownServers() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.9.0.53")}, nil }

func options() Options {
	return Options{Name: "airlock0", Subnet: netip.MustParsePrefix("172.29.0.0/16"), Logger: zerolog.Nop()}
}

func TestLifeOfAnEndpoint(t *testing.T) {
	f := newFake()
	opts := options()
	opts.DNS, opts.Suffix = []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("10.0.0.53")}, "a.example"
	n := open(opts, f, ownServers)
	require.NoError(t, n.Prepare(t.Context()))
	require.NoError(t, n.Prepare(t.Context()))
	require.Len(t, f.networks, 1, "made when it is missing, and only then")

	id, err := n.Attach(t.Context(), "al-1")
	require.NoError(t, err)
	require.Equal(t, "airlock-al-1", f.endpoints[id].Name)
	require.Equal(t, "192.0.2.53,10.0.0.53", f.endpoints[id].DNS)
	require.Equal(t, "a.example", f.endpoints[id].Suffix)
	_, err = n.Attach(t.Context(), "al-1")
	require.ErrorContains(t, err, "already")

	f.endpoints["docker"] = endpoint{ID: "docker", Name: "nat-endpoint"}
	successor := open(opts, f, ownServers)
	ids, err := successor.Attached(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"al-1"}, ids, "those of earlier processes, and not those of others")
	require.NoError(t, successor.Remove(t.Context()))
	require.Len(t, f.networks, 1, "it stays while a sandbox is attached")
	require.NoError(t, successor.Detach(t.Context(), "al-1"))
	require.NoError(t, successor.Detach(t.Context(), "al-1"))
	require.NoError(t, successor.Remove(t.Context()))
	require.Empty(t, f.networks)
	require.Contains(t, f.endpoints, "docker")
}

// network-gone-after-reboot: NAT networks do not survive one.
func TestNetworkIsMadeAgain(t *testing.T) {
	f := newFake()
	n := open(options(), f, ownServers)
	require.NoError(t, n.Prepare(t.Context()))
	clear(f.networks)
	_, err := n.Attach(t.Context(), "al-1")
	require.NoError(t, err)
}

func TestForeignNetworkIsLeftAlone(t *testing.T) {
	f := newFake()
	f.networks["x"] = network{ID: "x", Name: "airlock0", Type: "l2bridge", Subnet: "172.29.0.0/16"}
	_, err := open(options(), f, ownServers).Attach(t.Context(), "al-1")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	f.networks["x"] = network{ID: "x", Name: "airlock0", Type: "nat", Subnet: "172.30.0.0/16"}
	require.Equal(t, fault.Admin, fault.ClassOf(open(options(), f, ownServers).Prepare(t.Context())))
	require.Len(t, f.networks, 1)
}

// endpoint-half-made: what the service made before it failed does not stay.
func TestFailedAttachLeavesNothing(t *testing.T) {
	f := newFake()
	n := open(options(), f, ownServers)
	f.fail["CreateEndpoint"] = errors.New("injected")
	_, err := n.Attach(t.Context(), "al-1")
	require.ErrorContains(t, err, "injected")
	require.Empty(t, f.endpoints)
	f.fail = map[string]error{"CreateNetwork": errors.New("overlaps")}
	clear(f.networks)
	_, err = n.Attach(t.Context(), "al-1")
	require.ErrorContains(t, err, "overlaps")
	require.ErrorContains(t, err, "Get-NetNat")
	f.fail = map[string]error{"Endpoints": errors.New("down")}
	_, err = n.Attached(t.Context())
	require.Error(t, err, "an empty list would be a lie")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gave up"))
	_, err = n.Attach(ctx, "al-2")
	require.ErrorContains(t, err, "gave up")
}

func TestRules(t *testing.T) {
	opts := options()
	opts.Allow = []Destination{{netip.MustParsePrefix("10.1.2.3/32"), 443}, {netip.MustParsePrefix("10.8.0.0/16"), 0}}
	require.Equal(t, []rule{
		{To: "10.1.2.3/32", Protocol: tcp, Port: 443, Priority: 100}, {To: "10.1.2.3/32", Protocol: udp, Port: 443, Priority: 100},
		{To: "10.8.0.0/16", Priority: 100},
		{To: "10.9.0.53/32", Protocol: tcp, Port: 53, Priority: 100}, {To: "10.9.0.53/32", Protocol: udp, Port: 53, Priority: 100},
		{Block: true, To: refused, Priority: 200},
		{Protocol: anyProtocol, Priority: 300},
	}, rules(opts, []netip.Addr{netip.MustParseAddr("10.9.0.53")}))
}

// TestNameServers: what endpoints are given is what their access lists let through.
func TestNameServers(t *testing.T) {
	f := newFake()
	id, err := open(options(), f, ownServers).Attach(t.Context(), "al-1")
	require.NoError(t, err)
	require.Equal(t, "10.9.0.53", f.endpoints[id].DNS)
	require.Contains(t, f.endpoints[id].Rules, rule{To: "10.9.0.53/32", Protocol: udp, Port: 53, Priority: 100})
	_, err = open(options(), f, func() ([]netip.Addr, error) { return nil, nil }).Attach(t.Context(), "al-2")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	require.ErrorContains(t, err, "name some: dns")
	require.Len(t, f.endpoints, 1)
}

// hanging is a service that keeps its callers waiting.
type hanging struct {
	service
	until chan struct{}
	mu    sync.Mutex
}

func (h *hanging) DeleteEndpoint(id string) error {
	<-h.until
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.service.DeleteEndpoint(id)
}

// endpoint-in-use-hangs: other jobs go on, up to a point.
func TestAServiceThatHangsIsNotWaitedFor(t *testing.T) {
	f := newFake()
	n := open(options(), f, ownServers)
	for i := range mostHanging + 1 {
		_, err := n.Attach(t.Context(), fmt.Sprint("al-", i))
		require.NoError(t, err)
	}
	until := make(chan struct{})
	slow := &bounded{service: &hanging{service: f, until: until}, patience: 500 * time.Millisecond}
	n.service = slow
	require.ErrorContains(t, n.Detach(t.Context(), "al-0"), "does not answer")
	require.ErrorContains(t, n.Detach(t.Context(), "al-0"), "has not returned", "the reaper tries again, and nothing more hangs")
	for i := 1; i < mostHanging; i++ {
		_, err := n.Attached(t.Context())
		require.NoError(t, err)
		require.ErrorContains(t, n.Detach(t.Context(), fmt.Sprint("al-", i)), "does not answer")
	}
	require.ErrorContains(t, n.Detach(t.Context(), "al-3"), "restart this host")
	require.Len(t, f.endpoints, mostHanging+1)
	close(until)
	require.Eventually(t, func() bool { return slow.hanging.Load() == 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, n.Detach(t.Context(), "al-3"))
	require.Empty(t, f.endpoints)
}
