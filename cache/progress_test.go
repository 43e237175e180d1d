package cache

import (
	"bytes"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/internal/joblog"
)

func TestProgressKeepsItsPace(t *testing.T) {
	var log bytes.Buffer
	p := newPull(image.Reference{}, v1.Platform{}, &image.Content{Digest: "sha256:1"})
	r := &report{to: joblog.New(&log), pull: p, image: "app"}
	require.Less(t, r.tick(), time.Second, "nothing to say yet")
	require.Empty(t, log.String())
	p.total.Store(45 << 20)
	p.missing.Store(3)
	var elapsed time.Duration
	for elapsed < 10*time.Minute {
		pause := r.tick()
		require.GreaterOrEqual(t, pause, 2*time.Second)
		elapsed += pause
		p.done.Add(1 << 20)
	}
	require.Contains(t, log.String(), "Pulling image app (3 layers, 45 MiB)\nPulling image app: 1 MiB of 45 MiB\n")
	require.Less(t, bytes.Count(log.Bytes(), []byte("\n")), 30)
	require.NotContains(t, log.String(), "\x1b")
}
