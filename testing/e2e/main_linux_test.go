package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/leakcheck"
	"github.com/airlock-ci/airlock/testing/system"
)

// built is the directory of the binaries under test, state keeps images between tests, helper is the helper
// image's archive.
var built, state, helper string

func TestMain(m *testing.M) {
	code, err := prepare(m)
	if err != nil {
		log.Printf("end-to-end tests cannot start: %v", err)
		code = 1
	}
	os.Exit(code)
}

func prepare(m *testing.M) (int, error) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		return 1, fmt.Errorf("they need Linux and root")
	}
	dir, err := os.MkdirTemp("", "al-e2e-") // short: socket paths have 107 bytes
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// Other users look for the programs and the socket in it.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Setenv("TMPDIR", dir)); err != nil {
		return 1, err
	}
	built, state = filepath.Join(dir, "bin"), filepath.Join(dir, "state")
	if err := system.Build(context.Background(), built); err != nil {
		return 1, err
	}
	if helper, err = images.Helper(context.Background()); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// quiet is the logger of the tests' registries.
var quiet = log.New(io.Discard, "", 0)

// eachLevel runs a test at both levels: a job's life must be the same at either.
func eachLevel(t *testing.T, test func(t *testing.T, level string)) {
	for _, level := range []string{"process", "hypervisor"} {
		t.Run(level, func(t *testing.T) { test(t, level) })
	}
}

// bench is a running Airlock with a registry and a GitLab beside it.
type bench struct {
	*system.System
	t        *testing.T
	registry string
	private  net.Listener // of a second registry, for who wants one
	gitlab   *gitlabtest.Coordinator
	caller   *gitlabtest.Caller
}

// keepLedger opens a leak check for a test, and returns what names that which it judges. The tests' own directory is in it:
// whatever they make by themselves lies there.
func keepLedger(t *testing.T) *leakcheck.Marks {
	t.Helper()
	marks := &leakcheck.Marks{}
	marks.Add(os.TempDir())
	leakcheck.CheckWith(t, system.Ledger(marks))
	return marks
}

// start starts an Airlock whose leak check must be empty when the test has ended.
func start(t *testing.T, o system.Options) *bench {
	t.Helper()
	o.Marks = keepLedger(t)
	server := httptest.NewServer(registry.New(registry.Logger(quiet)))
	t.Cleanup(server.Close)
	private, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = private.Close() }) // its server may have
	b := &bench{t: t, registry: strings.TrimPrefix(server.URL, "http://"), private: private}
	o.Bin, o.Reachable, o.Registries = built, true, []string{b.registry, private.Addr().String()}
	if o.StateDir == "" {
		o.StateDir = state
	}
	if o.Isolation == "hypervisor" {
		o.Config += "cpus = \"1\"\n" // what an emulated machine makes the best of
	}
	o.Config = fmt.Sprintf("helper_image = %q\nmemory = \"512m\"\nscratch_size = \"2g\"\n%s", "docker-archive:"+helper, o.Config)
	b.System, err = system.Start(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, b.Close())
		if t.Failed() {
			t.Logf("the service's log:\n%s", b.Log())
		}
	})
	b.gitlab, err = gitlabtest.StartCoordinator(b.Gateway + ":0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.gitlab.Close()) })
	b.caller = b.newCaller()
	b.push(archived(t, must(images.Busybox(context.Background()))), "busybox")
	return b
}

func (b *bench) newCaller(args ...string) *gitlabtest.Caller {
	driver, socket := b.DriverArgs()
	return &gitlabtest.Caller{
		Driver: driver, Args: append(socket, args...), TempDir: b.t.TempDir(),
		RetryInterval: 50 * time.Millisecond, ForceKill: 5 * time.Second,
	}
}

// outcome is a job's result and what GitLab knows about it.
type outcome struct {
	gitlabtest.Result
	gitlab gitlabtest.JobRecord
}

// run runs a job as runner 19.4 does; an empty image means busybox.
func (b *bench) run(job gitlabtest.Job) outcome {
	b.t.Helper()
	job = b.job(job)
	return outcome{b.caller.Run(b.t.Context(), job), b.gitlab.Job(job.ID)}
}

// job completes a job: with a fresh id and, if it names no image, busybox.
func (b *bench) job(job gitlabtest.Job) gitlabtest.Job {
	if job.Image == "" {
		job.Image = b.registry + "/busybox"
	}
	return b.gitlab.Adopt(job)
}

// push puts an image into the test's registry and returns its reference.
func (b *bench) push(image v1.Image, repository string) string {
	b.t.Helper()
	ref, err := name.ParseReference(b.registry + "/" + repository)
	require.NoError(b.t, err)
	require.NoError(b.t, remote.Write(ref, image))
	return ref.String()
}

// airlock runs an administrator's command and returns its output.
func (b *bench) airlock(args ...string) string {
	b.t.Helper()
	out, err := b.Airlock(args...).CombinedOutput()
	require.NoError(b.t, err, "airlock %s: %s", strings.Join(args, " "), out)
	return string(out)
}

func archived(t *testing.T, path string) v1.Image {
	t.Helper()
	image, err := tarball.ImageFromPath(path, nil)
	require.NoError(t, err)
	return image
}

// asUser returns an image whose stages run as user.
func asUser(t *testing.T, image v1.Image, user string) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.Config.User = user
	changed, err := mutate.ConfigFile(image, config)
	require.NoError(t, err)
	return changed
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
