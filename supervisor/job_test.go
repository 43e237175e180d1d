//go:build linux

package supervisor

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	realdriver "github.com/airlock-ci/airlock/driver"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// The real driver's exit codes in these tests, beside 0.
const (
	buildFailure  = 41
	systemFailure = 42
)

// job is what a runner's directory holds for the real driver.
type job struct {
	t       *testing.T
	dir     string
	socket  string
	out     io.Writer
	errs    syncbuf.Buffer
	signals chan os.Signal
}

func (r *rig) job(response string, out io.Writer) *job {
	j := &job{t: r.t, dir: r.t.TempDir(), socket: r.socket, out: out, signals: make(chan os.Signal, 4)}
	require.NoError(r.t, os.WriteFile(j.path("response"), []byte(response), 0o600))
	require.NoError(r.t, os.WriteFile(j.path("script"), []byte("text"), 0o600))
	return j
}

func (j *job) path(name string) string { return filepath.Join(j.dir, name) }

// driver is the real driver within this process; nil errs collects what it writes to stderr.
func (j *job) driver(errs io.Writer) *realdriver.Driver {
	if errs == nil {
		errs = &j.errs
	}
	return &realdriver.Driver{
		Socket: j.socket, Dir: j.dir, Stdout: j.out, Stderr: errs, Signals: j.signals,
		Env: gitlab.Environment{
			Handle: string(gitlab.NewHandle(1)), JobResponseFile: j.path("response"),
			BuildFailure: buildFailure, SystemFailure: systemFailure, ExitCodeFile: j.path("status"),
		},
	}
}

// begin starts a call and returns where its exit code will come from.
func (j *job) begin(errs io.Writer, call string, args ...string) <-chan int {
	code := make(chan int, 1)
	go func() { code <- j.driver(errs).Do(context.Background(), call, args...) }()
	return code
}

func (j *job) run(stage string, errs io.Writer) <-chan int {
	return j.begin(errs, realdriver.Run, j.path("script"), stage)
}

// code waits for a call's exit code.
func (j *job) code(ended <-chan int) int {
	j.t.Helper()
	select {
	case code := <-ended:
		return code
	case <-time.After(40 * time.Second):
		require.FailNow(j.t, "the driver does not end", j.errs.String())
		return 0
	}
}

// realDriverMain is a driver process that runs a stage: socket and stage are its arguments.
func realDriverMain() int {
	d := &realdriver.Driver{
		Socket: os.Args[1], Stdout: os.Stdout, Stderr: os.Stderr,
		Env: gitlab.Environment{Handle: string(gitlab.NewHandle(1)), BuildFailure: buildFailure, SystemFailure: systemFailure},
	}
	return d.Do(context.Background(), realdriver.Run, os.Args[2], os.Args[3])
}

// lazyHash is a reader that takes its time: it hashes what it gets, and tells how much that was.
type lazyHash struct {
	hash.Hash
	pause time.Duration
	size  atomic.Int64
}

func newLazyHash(pause time.Duration) *lazyHash { return &lazyHash{Hash: sha256.New(), pause: pause} }

func (l *lazyHash) Write(p []byte) (int, error) {
	time.Sleep(l.pause)
	l.size.Add(int64(len(p)))
	return l.Hash.Write(p)
}

func (l *lazyHash) await(t *testing.T, mib int64) {
	t.Helper()
	require.Eventually(t, func() bool { return l.size.Load() >= mib<<20 }, 20*time.Second, time.Millisecond)
}
