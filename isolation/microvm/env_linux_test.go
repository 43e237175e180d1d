package microvm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"context"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/rootfs"
	"github.com/airlock-ci/airlock/testing/runtimetest"
)

// bench is a run directory with what is made in it.
type bench struct {
	dir    string
	parent string // cgroup

	mutex     sync.Mutex
	sandboxes map[string]isolation.Sandbox
}

// counter makes ids and cgroups of this process unique.
var counter atomic.Int64

// newBench makes a bench and checks, when the test ends, that the host is as it was.
func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{
		dir: t.TempDir(), parent: runtimetest.Cgroup(testParent, counter.Add(1)),
		sandboxes: map[string]isolation.Sandbox{},
	}
	runtimetest.LeaveNothing(t, testParent)
	return b
}

func (b *bench) newRuntime(t testing.TB, edit ...func(*Options)) *Runtime {
	t.Helper()
	options := Options{
		KernelDir: shared.kernel, Accelerator: TCG, AgentPath: shared.agent,
		StateDir: shared.state, RunDir: filepath.Join(b.dir, "run"), CgroupParent: b.parent,
		Logger: zerolog.New(zerolog.NewTestWriter(t)),
	}
	for _, e := range edit {
		e(&options)
	}
	r, err := New(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func (b *bench) spec(t testing.TB) isolation.Spec {
	t.Helper()
	n := counter.Add(1)
	scratch := filepath.Join(b.dir, fmt.Sprintf("scratch-%d", n))
	out, err := exec.Command("cp", "--sparse=always", shared.scratch, scratch).CombinedOutput()
	require.NoError(t, err, "%s", out)
	config := func(greeting string) isolation.ImageConfig {
		return isolation.ImageConfig{Env: []string{"PATH=" + rootfs.Path, "GREETING=" + greeting}}
	}
	return isolation.Spec{
		ID: fmt.Sprintf("al-%05d%07d", os.Getpid()%100000, n), Hostname: "sandbox", ScratchDisk: scratch,
		Image:  isolation.Root{Disk: shared.image, Config: config("image")},
		Helper: &isolation.Root{Disk: shared.helper, Config: config("helper")},
		Limits: isolation.Limits{CPUs: 1, Memory: 256 << 20},
	}
}

// box makes a sandbox for the rest of the test.
func (b *bench) box(t testing.TB, r *Runtime, spec isolation.Spec) *sandbox {
	t.Helper()
	made, err := r.Create(t.Context(), spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, made.Destroy(context.Background()))
		require.Empty(t, b.leftovers(t, spec.ID))
	})
	return made.(*sandbox)
}

// shell runs a line in a sandbox; it must end with status 0.
func shell(t testing.TB, sandbox isolation.Sandbox, line string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p, err := sandbox.Start(t.Context(), isolation.ProcessSpec{Script: []byte(line), Stdout: &stdout, Stderr: &stderr})
	require.NoError(t, err)
	exit, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code, "%s\n%s%s", line, stdout.String(), stderr.String())
	return stdout.String()
}

// conformance is the bench as the suite wants it.
func (b *bench) conformance() conformance.RuntimeEnv {
	return conformance.RuntimeEnv{
		New:  func(t testing.TB) isolation.Runtime { return recorder{b.newRuntime(t), b} },
		Spec: b.spec,
		Image: func(t testing.TB, change func(root string)) isolation.Root {
			root := t.TempDir()
			require.NoError(t, rootfs.Busybox(root))
			change(root)
			image := b.spec(t).Image
			image.Disk = filepath.Join(b.dir, fmt.Sprintf("image-%d.ext4", counter.Add(1)))
			require.NoError(t, makeDisk(image.Disk, root))
			return image
		},
		Rlimits: func(testing.TB) map[string]string {
			return map[string]string{"c": "unlimited", "u": "unlimited", "n": "1048576"}
		},
		BaseFingerprint: func(t testing.TB) string {
			return fileSum(t, shared.image) + fileSum(t, shared.helper)
		},
		ScratchHas: b.scratchHas,
		Leftovers:  b.leftovers,
	}
}

// recorder remembers the sandboxes that a runtime makes.
type recorder struct {
	isolation.Runtime
	bench *bench
}

func (r recorder) Create(ctx context.Context, spec isolation.Spec) (isolation.Sandbox, error) {
	s, err := r.Runtime.Create(ctx, spec)
	if err == nil {
		r.bench.mutex.Lock()
		defer r.bench.mutex.Unlock()
		r.bench.sandboxes[spec.ID] = s
	}
	return s, err
}

// scratchHas lets the guest write out what it has in memory and looks at the scratch disk from the host.
func (b *bench) scratchHas(t testing.TB, spec isolation.Spec, path string) bool {
	b.mutex.Lock()
	s := b.sandboxes[spec.ID]
	b.mutex.Unlock()
	shell(t, s, "sync")
	out, err := exec.Command("debugfs", "-R", "stat /upper"+path, spec.ScratchDisk).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.Contains(string(out), "Inode:")
}

// leftovers are the traces of one sandbox.
func (b *bench) leftovers(t testing.TB, id string) []string {
	t.Helper()
	return runtimetest.Leftovers(t, testParent, filepath.Join(b.dir, "run"), id)
}

func fileSum(t testing.TB, path string) string {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	require.NoError(t, err)
	return fmt.Sprintf("%x", hash.Sum(nil))
}
