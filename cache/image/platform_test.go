package image

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

// What Windows hosts choose, as far as it does not need one.
func TestWindowsPlatforms(t *testing.T) {
	host := v1.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348"}
	index := []v1.Descriptor{}
	for _, p := range []v1.Platform{
		{OS: "linux", Architecture: "amd64"},
		{OS: "windows", Architecture: "arm64", OSVersion: "10.0.20348.1"},
		{OS: "windows", Architecture: "amd64"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763.6000"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.2100"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.2700"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.26100.1"},
		{OS: "windows", Architecture: "amd64", OSVersion: "6.1.7601"},
	} {
		index = append(index, v1.Descriptor{Platform: &p})
	}
	choose := func(host v1.Platform) string {
		var fitting []v1.Descriptor
		for _, desc := range index {
			if RunsOn(desc.Platform, host) {
				fitting = append(fitting, desc)
			}
		}
		require.NotEmpty(t, fitting)
		return best(fitting).Platform.String()
	}
	require.Equal(t, "windows/amd64:10.0.20348.2700", choose(host))
	host.OSVersion = "10.0.19045"
	require.Equal(t, "windows/amd64:10.0.17763.6000", choose(host))
	host.OSVersion = "10.0.28000"
	require.Equal(t, "windows/amd64:10.0.26100.1", choose(host))
	require.Equal(t, "linux/amd64", choose(v1.Platform{OS: "linux", Architecture: "amd64"}))
	require.False(t, runsVersion("10.0.26100.1", "10.0.20348"))
	require.True(t, runsVersion("", "10.0.20348"), "the runtime decides")
}
