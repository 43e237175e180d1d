package network

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
)

func valid() Options {
	return Options{Bridge: "airlock0", Subnet: "172.29.0.0/16", MaxConnections: 4096}
}

func TestBadOptionsNameKeyAndEntry(t *testing.T) {
	cases := map[string]struct {
		change func(*Options)
		expect string
	}{
		"bridge empty":    {func(o *Options) { o.Bridge = "" }, `[network] bridge ""`},
		"bridge long":     {func(o *Options) { o.Bridge = "twelve-bytes" }, `[network] bridge "twelve-bytes"`},
		"bridge slash":    {func(o *Options) { o.Bridge = "../x" }, `[network] bridge "../x"`},
		"subnet text":     {func(o *Options) { o.Subnet = "private" }, `[network] subnet "private"`},
		"subnet wide":     {func(o *Options) { o.Subnet = "172.16.0.0/12" }, "16 to 28"},
		"subnet narrow":   {func(o *Options) { o.Subnet = "172.16.0.0/30" }, "16 to 28"},
		"subnet host":     {func(o *Options) { o.Subnet = "172.29.0.1/16" }, "172.29.0.0/16"},
		"subnet IPv6":     {func(o *Options) { o.Subnet = "fd00::/64" }, "IPv4 only"},
		"allow IPv6":      {func(o *Options) { o.Allow = []string{"[fd00::1]:53"} }, `[network] allow "[fd00::1]:53": IPv6 is off`},
		"no connections":  {func(o *Options) { o.MaxConnections = 0 }, "[network] max_connections 0"},
		"connections":     {func(o *Options) { o.MaxConnections = MostConnections + 1 }, "[network] max_connections 1048577"},
		"dns name":        {func(o *Options) { o.DNS = []string{"1.1.1.1", "dns.google"} }, `dns "dns.google"`},
		"dns IPv6":        {func(o *Options) { o.DNS = []string{"fd00::53"} }, `dns "fd00::53"`},
		"dns loopback":    {func(o *Options) { o.DNS = []string{"127.0.0.53"} }, "not the host's"},
		"extra host name": {func(o *Options) { o.ExtraHosts = []string{":10.0.0.1"} }, `extra_hosts ":10.0.0.1"`},
		"extra host IP":   {func(o *Options) { o.ExtraHosts = []string{"db:nowhere"} }, `"nowhere" is not an IP address`},
		"extra host line": {func(o *Options) { o.ExtraHosts = []string{"a\n1.2.3.4 b:10.0.0.1"} }, "extra_hosts"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := valid()
			c.change(&o)
			_, err := o.parse()
			require.ErrorContains(t, err, c.expect)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
		})
	}
}

func TestGoodOptions(t *testing.T) {
	o := valid()
	o.Allow = []string{"10.1.2.3:443", "10.0.0.0/8"}
	o.DNS = []string{"10.0.0.53"}
	o.ExtraHosts = []string{"db:10.0.0.1", "six:fd00::1", "bracketed:[fd00::2]"}
	s, err := o.parse()
	require.NoError(t, err)
	require.Equal(t, "172.29.0.1", s.gateway.String())
	require.Equal(t, []string{"10.0.0.1 db", "fd00::1 six", "fd00::2 bracketed"}, s.hosts)
	require.Len(t, s.exceptions, 2)
}

func TestParseException(t *testing.T) {
	for entry, expect := range map[string]string{
		"10.1.2.3": "10.1.2.3", "10.1.2.3:443": "10.1.2.3:443", "10.0.0.0/8": "10.0.0.0/8",
		"10.0.0.0/8:443": "10.0.0.0/8:443", "10.1.2.3/32": "10.1.2.3", "0.0.0.0/0": "0.0.0.0/0",
	} {
		e, err := ParseException(entry)
		require.NoError(t, err, entry)
		require.Equal(t, expect, e.String())
	}
	for entry, expect := range map[string]string{
		"":                 "is not an IPv4 address",
		"registry":         "names are not resolved",
		"registry:443":     "names are not resolved",
		"10.1.2.3:":        "is not a port",
		"10.1.2.3:0":       "is not a port",
		"10.1.2.3:65536":   "is not a port",
		"10.1.2.3:http":    "is not a port",
		"10.1.2.3/8":       "write 10.0.0.0/8 or 10.1.2.3",
		"10.1.2.0/33":      "is not an IPv4 network",
		"10.1.2/24":        "is not an IPv4 network",
		"fd00::1":          "IPv6 is off",
		"fd00::/8":         "IPv6 is off",
		"[fd00::1]":        "IPv6 is off",
		"[fd00::1]:53":     "IPv6 is off",
		"::ffff:10.0.0.1":  "IPv6 is off",
		" 10.1.2.3":        "is not an IPv4 address",
		"10.1.2.3:443:443": "IPv6 is off",
	} {
		_, err := ParseException(entry)
		require.ErrorContains(t, err, expect, entry)
		require.ErrorContains(t, err, "[network] allow", entry)
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	}
}

func FuzzParseException(f *testing.F) {
	for _, seed := range []string{"10.1.2.3:443", "10.0.0.0/8", "10.1.2.3", "[fd00::1]:53", "10.0.0.0/8:1", "%d:%s", "1.2.3.4/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		e, err := ParseException(entry)
		if err != nil {
			require.Equal(t, fault.Admin, fault.ClassOf(err))
			require.Equal(t, Exception{}, e)
			return
		}
		require.True(t, e.Prefix.IsValid() && e.Prefix.Addr().Is4())
		require.Equal(t, e.Prefix.Masked(), e.Prefix)
		again, err := ParseException(e.String())
		require.NoError(t, err)
		require.Equal(t, e, again)
		require.Equal(t, netip.MustParsePrefix(e.Prefix.String()), e.Prefix)
	})
}
