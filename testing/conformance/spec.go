package conformance

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

// Spec is RuntimeEnv.Spec for runtimes of the process level: image and helper are layers, roots of
// testing/rootfs, of which only the second has HelperMarker. The scratch lives as long as t.
func Spec(t testing.TB, image, helper string) isolation.Spec {
	t.Helper()
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	root := func(layer, greeting string) isolation.Root {
		return isolation.Root{Layers: []string{layer}, Config: isolation.ImageConfig{
			Env: []string{"PATH=" + rootfs.Path, "GREETING=" + greeting},
		}}
	}
	helperRoot := root(helper, "helper")
	scratch := t.TempDir()
	require.NoError(t, os.Chmod(scratch, 0o755))
	return isolation.Spec{
		ID: "al-" + hex.EncodeToString(id[:]), Hostname: "sandbox", ScratchDir: scratch,
		Image: root(image, "image"), Helper: &helperRoot,
	}
}
