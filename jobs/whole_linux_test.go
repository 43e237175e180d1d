package jobs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/testing/fakes"
	"github.com/airlock-ci/airlock/testing/rootfs"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// busybox serves the test root from a registry until the test ends, and returns the image's name.
func busybox(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	reference, err := name.ParseReference(server.Listener.Addr().String() + "/busybox:1")
	require.NoError(t, err)
	image, err := rootfs.Image()
	require.NoError(t, err)
	require.NoError(t, remote.Write(reference, image))
	return reference.Name()
}

func TestAJobWhoseStagesReallyRun(t *testing.T) {
	layers, err := fakes.OpenLayers(t.TempDir(), 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, layers.Close()) })
	world := fakes.NewWorld()
	f := newFixture(t, func(o *jobs.Options) {
		o.Settings.HelperImage = ""
		o.Layers, o.Runtimes = layers, []isolation.Runtime{world.ShellRuntime(isolation.ProcessLevel)}
	})
	response := fmt.Sprintf(`{"id": 7, "image": {"name": %q}}`, busybox(t))
	require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(response), joblog.New(&f.log)))
	require.Contains(t, f.log.String(), "pulled, ")

	stage := func(name, script string) (int32, string) {
		t.Helper()
		var stdout bytes.Buffer
		status, err := f.Run(t.Context(), &api.Run{Handle: string(f.handle), Stage: name}, []byte(script),
			api.Streams{Stdout: &stdout, Stderr: io.Discard})
		require.NoError(t, err)
		return status, stdout.String()
	}
	status, said := stage("build_script", "echo kept > /etc/kept; echo said; sleep 600 & exit 3")
	require.EqualValues(t, 3, status)
	require.Equal(t, "said\n", said)
	status, said = stage("after_script", "cat /etc/kept; ps -o args | grep -c '[s]leep 600'")
	require.EqualValues(t, 1, status)
	require.Equal(t, "kept\n0\n", said)

	var up, told syncbuf.Buffer
	signals := make(chan int, 1)
	go func() {
		for !strings.Contains(up.String(), "up") {
			time.Sleep(time.Millisecond)
		}
		signals <- 15
	}()
	status, err = f.Run(t.Context(), &api.Run{Handle: string(f.handle), Stage: "build_script"},
		[]byte("trap '' TERM; echo up; while :; do sleep 0.01; done"), api.Streams{Stdout: &up, Stderr: &told, Signals: signals})
	require.NoError(t, err)
	require.EqualValues(t, 137, status)
	require.Equal(t, "airlock: killed 50ms after SIGTERM, which it ignored or was too slow to obey (graceful_kill_timeout)\n", told.String())

	require.NoError(t, f.cleanup())
	require.Empty(t, world.Leftovers())
	scratches, err := layers.Scratches(context.Background())
	require.NoError(t, err)
	require.Empty(t, scratches)
}
