package microvm

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireProcessor: what is said of guests' processors before there is a guest is what programs find in one.
func requireProcessor(t *testing.T, r *Runtime, guest *sandbox) {
	t.Helper()
	said, err := r.ProcessorVariant(t.Context())
	require.NoError(t, err)
	flags := map[string]any{}
	// Linux has other names for some of QEMU's.
	for _, flag := range strings.Fields(strings.NewReplacer("sse4_", "sse4.", "lahf_lm", "lahf-lm").Replace(shell(t, guest, "grep -m 1 ^flags /proc/cpuinfo"))) {
		flags[flag] = true
	}
	require.Equal(t, levelOf(flags), said)
}

func TestLevelOf(t *testing.T) {
	has := func(features ...string) map[string]any {
		all := map[string]any{}
		for _, feature := range features {
			all[feature] = true
		}
		return all
	}
	require.Equal(t, "v1", levelOf(has()))
	require.Equal(t, "v2", levelOf(has(levels[1].features...)))
	require.Equal(t, "v1", levelOf(has(levels[2].features...)), "each level includes those below")
	all := slices.Concat(levels[1].features, levels[2].features, levels[3].features)
	require.Equal(t, "v4", levelOf(has(all...)))
	features := has(all...)
	features["movbe"] = false
	require.Equal(t, "v2", levelOf(features))
}
