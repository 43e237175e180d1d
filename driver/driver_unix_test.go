//go:build unix

package driver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/standin"
)

// program is the real binary, built once.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "airlock-driver-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "airlock-driver")
	build := exec.Command("go", "build", "-o", program, "../cmd/airlock-driver")
	build.Stderr = os.Stderr
	code := 1
	if err := errors.Join(build.Run(), os.Chmod(dir, 0o755)); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// serve plays an executor on a socket and returns the socket's path.
func serve(t *testing.T, handle api.Handler) string {
	socket := filepath.Join(t.TempDir(), "host.sock")
	serveAt(t, socket, handle)
	return socket
}

// serveAt does the same at a path, until the test or the returned function ends it.
func serveAt(t *testing.T, socket string, handle api.Handler) (end func()) {
	return serveGreeting(t, socket, func() (api.Version, error) { return api.Version{Protocol: api.ProtocolVersion}, nil }, handle)
}

func serveGreeting(t *testing.T, socket string, greet func() (api.Version, error), handle api.Handler) (end func()) {
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	end = sync.OnceFunc(standin.Accept(listener, greet, handle))
	t.Cleanup(end)
	return end
}

// input is what a driver sent before the end of its data.
type input struct {
	op      api.Op
	body    json.RawMessage
	data    []byte
	largest int
}

func receive(call *api.Call) (in input, err error) {
	in.op = call.Op
	if err := call.Decode(&in.body); err != nil {
		return in, err
	}
	buf := make([]byte, 2*api.MaxChunk)
	for {
		n, err := call.Stdin.Read(buf)
		in.data = append(in.data, buf[:n]...)
		in.largest = max(in.largest, n)
		if errors.Is(err, io.EOF) {
			return in, nil
		}
		if err != nil {
			return in, err
		}
	}
}

// body decodes what a driver asked for.
func body[M any](t *testing.T, in input) (message M) {
	require.NoError(t, json.Unmarshal(in.body, &message))
	return message
}

// outcome is how a call ends.
type outcome struct {
	status int
	err    error
}

// answering is an executor that takes the input and answers with one result.
func answering(o outcome) api.Handler {
	return func(_ context.Context, call *api.Call) (int, error) {
		if _, err := receive(call); err != nil {
			return 0, err
		}
		return o.status, o.err
	}
}

// runnerDir is a directory as the runner makes one for an attempt.
type runnerDir struct{ dir, handle string }

func newRunnerDir(t *testing.T, response string) runnerDir {
	d := runnerDir{dir: t.TempDir(), handle: string(gitlab.NewHandle(1000))}
	require.NoError(t, os.WriteFile(d.path("response.json"), []byte(response), 0o600))
	require.NoError(t, os.WriteFile(d.path("script"), []byte("a script"), 0o700))
	return d
}

func (d runnerDir) path(name string) string { return filepath.Join(d.dir, name) }

func (d runnerDir) exitCode(t *testing.T) string {
	content, err := os.ReadFile(d.path("build_exit_code"))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	require.NoError(t, err)
	return string(content)
}

// command is a call as the runner makes it; args are the whole command line.
func (d runnerDir) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = d.dir
	cmd.Env = []string{
		"PATH=/bin", "BUILD_FAILURE_EXIT_CODE=41", "SYSTEM_FAILURE_EXIT_CODE=42",
		"BUILD_EXIT_CODE_FILE=" + d.path("build_exit_code"), "JOB_RESPONSE_FILE=" + d.path("response.json"),
		"AIRLOCK_JOB_HANDLE=" + d.handle, "CUSTOM_ENV_AIRLOCK_JOB_HANDLE=forged", "CUSTOM_ENV_CI_JOB_ID=666",
	}
	return cmd
}

type ended struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, cmd *exec.Cmd) ended {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return ended{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func TestExitCodes(t *testing.T) {
	author := outcome{err: api.Author(errors.New("no such image\nat all"))}
	admin := outcome{err: api.Administrator(errors.New("refused"))}
	system := outcome{err: errors.New("disk full")}
	ok := func(status int) outcome { return outcome{status: status} }
	for _, c := range []struct {
		call   string
		result outcome
		code   int
		file   string
		stderr string
	}{
		{"prepare", ok(0), 0, "", ""},
		{"prepare", author, 41, "", "airlock: no such image at all\n"},
		{"prepare", admin, 41, "", "airlock: refused\n"},
		{"prepare", system, 42, "", "airlock: disk full\n"},
		{"run", ok(0), 0, "", ""},
		{"run", ok(1), 41, "1\n", ""},
		{"run", ok(2), 41, "2\n", ""},
		{"run", ok(41), 41, "41\n", ""},
		{"run", ok(137), 41, "137\n", ""},
		{"run", ok(255), 41, "255\n", ""},
		{"run", author, 41, "", "airlock: no such image at all\n"},
		{"run", admin, 42, "", "airlock: refused\n"},
		{"run", system, 42, "", "airlock: disk full\n"},
		{"run", outcome{err: errors.New("")}, 42, "", "airlock: the executor gave no reason for its failure\n"},
		{"cleanup", ok(0), 0, "", ""},
		{"cleanup", admin, 42, "", "airlock: refused\n"},
		{"cleanup", system, 42, "", "airlock: disk full\n"},
	} {
		t.Run(fmt.Sprintf("%s ends with %v", c.call, c.result), func(t *testing.T) {
			t.Parallel()
			d := newRunnerDir(t, `{"id":1000}`)
			require.NoError(t, os.WriteFile(d.path("build_exit_code"), []byte("99\n"), 0o600)) // an earlier stage's
			args := []string{c.call, "--socket", serve(t, answering(c.result))}
			if c.call == "run" {
				args = append(args, d.path("script"), "build_script")
			}
			end := run(t, d.command(args...))
			require.Equal(t, ended{c.code, "", c.stderr}, end)
			require.Equal(t, c.file, d.exitCode(t))
		})
	}
}

func TestUsualExitCodesWhenTheRunnerNamesNone(t *testing.T) {
	d := newRunnerDir(t, `{"id":1000}`)
	socket := serve(t, answering(outcome{status: 7}))
	cmd := d.command("run", "--socket", socket, d.path("script"), "build_script")
	cmd.Env = []string{"AIRLOCK_JOB_HANDLE=" + d.handle} // before 17.9 there is no file either
	require.Equal(t, ended{code: 1}, run(t, cmd))
	require.Empty(t, d.exitCode(t))
}

func TestConfig(t *testing.T) {
	d := newRunnerDir(t, `{"id":1000,"ID":666}`)
	end := run(t, d.command("config"))
	require.Equal(t, 0, end.code)
	require.Empty(t, end.stderr)
	require.Regexp(t, `^\{"driver":\{"name":"airlock","version":"dev"\},"builds_dir":"/builds","cache_dir":"/cache",`+
		`"builds_dir_is_shared":false,"job_env":\{"AIRLOCK_JOB_HANDLE":"1000-[0-9a-f]{32}"\},"shell":"bash"\}\n$`, end.stdout)

	require.Equal(t, 0, run(t, newRunnerDir(t, `{"id":9007199254740993,"runner_info":{}}`).command("config")).code, "boot_verify")
	for name, c := range map[string]struct {
		response, want string
		code           int
	}{
		"oversize":     {`{"id":1,"x":"` + strings.Repeat("x", gitlab.MaxJobResponse) + `"}`, "larger than 16777216 bytes", 41},
		"no JSON":      {"nonsense", "not valid", 42},
		"a forged one": {`{"id":1,"id":2}`, "occurs twice", 42},
	} {
		t.Run(name, func(t *testing.T) {
			end := run(t, newRunnerDir(t, c.response).command("config"))
			require.Equal(t, c.code, end.code)
			require.Empty(t, end.stdout)
			require.Contains(t, end.stderr, c.want)
		})
	}
	cmd := d.command("config")
	cmd.Env = []string{"BUILD_FAILURE_EXIT_CODE=41"}
	end = run(t, cmd)
	require.Equal(t, 41, end.code)
	require.Contains(t, end.stderr, "needs GitLab Runner 14.1 or newer")
}

func TestPrepareSendsTheResponseInChunks(t *testing.T) {
	response := `{"id":1000,"x":"` + strings.Repeat("y", 3<<20) + `"}`
	d := newRunnerDir(t, response)
	var got input
	socket := serve(t, func(_ context.Context, call *api.Call) (_ int, err error) {
		if got, err = receive(call); err != nil {
			return 0, err
		}
		_, err = io.WriteString(call.Stdout, "out\n")
		_, err2 := io.WriteString(call.Stderr, "err\n")
		return 0, errors.Join(err, err2)
	})
	end := run(t, d.command("prepare", "--socket", socket, "--runner-class", "protected"))
	require.Equal(t, ended{0, "out\n", "err\n"}, end)
	require.Equal(t, api.OpPrepare, got.op)
	prepare := body[api.Prepare](t, got)
	require.Equal(t, d.handle, prepare.Handle)
	require.Equal(t, "protected", prepare.RunnerClass)
	require.Equal(t, d.dir, prepare.RunnerDir)
	require.Equal(t, os.Getpid(), prepare.RunnerPID)
	require.NotContains(t, string(got.body), "uid", "who calls is the kernel's to say")
	require.Equal(t, response, string(got.data))
	require.LessOrEqual(t, got.largest, api.MaxChunk)
}

func TestRunSendsTheScript(t *testing.T) {
	d := newRunnerDir(t, "")
	var got input
	socket := serve(t, func(_ context.Context, call *api.Call) (_ int, err error) {
		got, err = receive(call)
		return 0, err
	})
	require.Equal(t, ended{}, run(t, d.command("run", "--socket", socket, d.path("script"), "step_release")))
	require.Equal(t, api.OpRun, got.op)
	require.Equal(t, d.handle, body[api.Run](t, got).Handle)
	require.Equal(t, "step_release", body[api.Run](t, got).Stage)
	require.Equal(t, "a script", string(got.data))
}

// Output passes byte for byte and in bounded memory, although the reader stalls.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	sent := [2][]byte{}
	socket := serve(t, func(_ context.Context, call *api.Call) (int, error) {
		if _, err := receive(call); err != nil {
			return 0, err
		}
		random := rand.NewChaCha8([32]byte{1})
		hashes := [2]io.Writer{sha256.New(), sha256.New()}
		chunk := make([]byte, api.MaxChunk)
		for n, i := 0, 0; n < size; i++ {
			part := chunk[:1+int(random.Uint64()%uint64(len(chunk)))]
			if i%3 == 0 {
				part = chunk[:1] // many tiny frames too
			}
			_, _ = random.Read(part)
			to := call.Stdout
			if i%2 == 1 {
				to = call.Stderr
			}
			if _, err := to.Write(part); err != nil {
				return 0, err
			}
			_, _ = hashes[i%2].Write(part)
			n += len(part)
		}
		for i, h := range hashes {
			sent[i] = h.(interface{ Sum([]byte) []byte }).Sum(nil)
		}
		return 0, nil
	})
	d := newRunnerDir(t, "")
	cmd := d.command("run", "--socket", socket, d.path("script"), "build_script")
	pipes := [2]io.ReadCloser{}
	var err error
	pipes[0], err = cmd.StdoutPipe()
	require.NoError(t, err)
	pipes[1], err = cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	time.Sleep(2500 * time.Millisecond)
	got := [2][]byte{}
	var readers sync.WaitGroup
	for i, pipe := range pipes {
		readers.Go(func() {
			hash := sha256.New()
			_, _ = io.Copy(hash, pipe)
			got[i] = hash.Sum(nil)
		})
	}
	peak := 0
	for kib := memoryPeak(cmd.Process.Pid); kib > 0; kib = memoryPeak(cmd.Process.Pid) {
		peak = kib
		time.Sleep(time.Millisecond)
	}
	readers.Wait()
	require.NoError(t, cmd.Wait())
	require.Equal(t, sent, got)
	require.Positive(t, peak)
	require.Less(t, peak, 32<<10, "KiB of memory")
}

// memoryPeak is the most memory that a process ever had, in KiB; 0 once it has ended.
func memoryPeak(pid int) (kib int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // gone: empty
	if _, rest, found := strings.Cut(string(status), "VmHWM:"); found {
		_, _ = fmt.Sscan(rest, &kib)
	}
	return kib
}

// signalled plays an executor that answers when it received the given number of signals.
func signalled(t *testing.T, wanted int) (socket string, signals chan int) {
	signals = make(chan int, 8)
	return serve(t, func(_ context.Context, call *api.Call) (int, error) {
		if _, err := receive(call); err != nil {
			return 0, err
		}
		if _, err := io.WriteString(call.Stdout, "started\n"); err != nil {
			return 0, err
		}
		for range wanted {
			signal, ok := <-call.Signals
			if !ok {
				return 0, errors.New("the signals ended")
			}
			signals <- signal
			if _, err := fmt.Fprintf(call.Stdout, "got %d\n", signal); err != nil {
				return 0, err
			}
		}
		return 143, nil
	}), signals
}

func TestSignals(t *testing.T) {
	t.Parallel()
	socket, signals := signalled(t, 3)
	d := newRunnerDir(t, "")
	cmd := d.command("run", "--socket", socket, d.path("script"), "build_script")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, len("started\n"))
	_, err = io.ReadFull(out, line)
	require.NoError(t, err)
	for _, c := range []struct {
		signal syscall.Signal
		number int
	}{{syscall.SIGTERM, 15}, {syscall.SIGINT, 9}, {syscall.SIGTERM, 9}} {
		require.NoError(t, syscall.Kill(-cmd.Process.Pid, c.signal))
		require.Equal(t, c.number, <-signals)
	}
	rest, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Equal(t, "got 15\ngot 9\ngot 9\n", string(rest), "output goes on after a signal")
	require.Error(t, cmd.Wait())
	require.Equal(t, 41, cmd.ProcessState.ExitCode())
	require.Equal(t, "143\n", d.exitCode(t))
}

func TestOutputThatNobodyReadsEndsTheStage(t *testing.T) {
	t.Parallel()
	socket, signals := signalled(t, 1)
	d := newRunnerDir(t, "")
	cmd := d.command("run", "--socket", socket, d.path("script"), "build_script")
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout = writer
	require.NoError(t, reader.Close())
	require.NoError(t, cmd.Start())
	require.NoError(t, writer.Close())
	require.EqualValues(t, 9, <-signals)
	require.Error(t, cmd.Wait())
	require.Equal(t, 42, cmd.ProcessState.ExitCode())
}

func TestAKilledDriverClosesItsConnection(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 1)
	started := make(chan struct{})
	socket := serve(t, func(ctx context.Context, call *api.Call) (int, error) {
		if _, err := receive(call); err != nil {
			return 0, err
		}
		close(started)
		<-ctx.Done()
		gone <- context.Cause(ctx)
		return 0, context.Cause(ctx)
	})
	d := newRunnerDir(t, "")
	cmd := d.command("run", "--socket", socket, d.path("script"), "build_script")
	require.NoError(t, cmd.Start())
	<-started
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	select {
	case err := <-gone:
		require.ErrorIs(t, err, api.ErrCallerGone)
	case <-time.After(5 * time.Second):
		require.Fail(t, "the host did not notice")
	}
}

func TestAHostThatGoesAway(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "host.sock")
	started := make(chan struct{}, 8)
	end := serveAt(t, socket, func(ctx context.Context, call *api.Call) (int, error) {
		_, err := receive(call)
		started <- struct{}{}
		<-ctx.Done()
		return 0, err
	})
	go func() {
		<-started
		end()
		serveAt(t, socket, answering(outcome{}))
		started <- struct{}{}
	}()
	d := newRunnerDir(t, "")
	ended := run(t, d.command("run", "--socket", socket, d.path("script"), "build_script"))
	<-started // the next one serves, and is not asked: nobody knows what a stage did
	require.Equal(t, 42, ended.code)
	require.Contains(t, ended.stderr, "the executor ended while the call ran, and its sandboxes with it: the connection to the executor broke")
	require.Contains(t, ended.stderr, "(retry the job; journalctl -u airlock has more)")
	require.Equal(t, 1, strings.Count(ended.stderr, "\n"), ended.stderr)
	require.Empty(t, d.exitCode(t))
}

// A call that an executor did not begin, because it is ending, is made again, whatever it asks for.
func TestACallThatWasNotBegunIsMadeAgain(t *testing.T) {
	t.Parallel()
	refusal := api.NotBegun(errors.New("the executor is stopping"))
	for _, args := range [][]string{{"prepare"}, {"run", "script", "build_script"}, {"cleanup"}} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			d := newRunnerDir(t, `{"id":1000}`)
			var greetings, calls atomic.Int32
			socket := filepath.Join(t.TempDir(), "host.sock")
			serveGreeting(t, socket, func() (api.Version, error) {
				if greetings.Add(1) == 1 {
					return api.Version{}, refusal
				}
				return api.Version{Protocol: api.ProtocolVersion}, nil
			}, func(_ context.Context, call *api.Call) (int, error) {
				if calls.Add(1) <= 2 {
					return 0, refusal // before it looks at the input
				}
				in, err := receive(call)
				if args[0] == "run" && string(in.data) != "a script" {
					err = fmt.Errorf("the script is %q", in.data)
				}
				return 0, err
			})
			require.Equal(t, ended{}, run(t, d.command(append([]string{args[0], "--socket", socket}, args[1:]...)...)))
			require.EqualValues(t, 3, calls.Load())
			require.EqualValues(t, 4, greetings.Load())
		})
	}
}

// A clean-up may be repeated, and must be: nobody else makes it.
func TestACleanupWhoseConnectionBreaksIsMadeAgain(t *testing.T) {
	t.Parallel()
	d := newRunnerDir(t, `{"id":1000}`)
	socket := filepath.Join(t.TempDir(), "host.sock")
	started, again := make(chan struct{}), make(chan input, 1)
	end := serveAt(t, socket, func(ctx context.Context, _ *api.Call) (int, error) {
		close(started)
		<-ctx.Done()
		return 0, nil
	})
	go func() {
		<-started
		end()
		time.Sleep(300 * time.Millisecond)
		serveAt(t, socket, func(_ context.Context, call *api.Call) (int, error) {
			in, err := receive(call)
			again <- in
			return 0, err
		})
	}()
	require.Equal(t, ended{}, run(t, d.command("cleanup", "--socket", socket)))
	require.Equal(t, d.handle, body[api.Cleanup](t, <-again).Handle)
}

// fullSocket listens on a socket whose queue is full.
func fullSocket(t *testing.T) (socket string, listener net.Listener) {
	socket = filepath.Join(t.TempDir(), "host.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	file := os.NewFile(uintptr(fd), socket)
	defer func() { require.NoError(t, file.Close()) }()
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}))
	require.NoError(t, syscall.Listen(fd, 1))
	listener, err = net.FileListener(file)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	for {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			require.ErrorIs(t, err, syscall.EAGAIN)
			return socket, listener
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func TestAFullQueueIsWaitedFor(t *testing.T) {
	t.Parallel()
	t.Run("a while", func(t *testing.T) {
		t.Parallel()
		d := newRunnerDir(t, `{"id":1000}`)
		socket, listener := fullSocket(t)
		time.AfterFunc(time.Second, func() {
			version := func() (api.Version, error) { return api.Version{Protocol: api.ProtocolVersion}, nil }
			t.Cleanup(standin.Accept(listener, version, answering(outcome{})))
		})
		started := time.Now()
		require.Equal(t, ended{}, run(t, d.command("prepare", "--socket", socket)))
		require.Greater(t, time.Since(started), 900*time.Millisecond)
	})
	t.Run("and no longer", func(t *testing.T) {
		t.Parallel()
		d := newRunnerDir(t, `{"id":1000}`)
		socket, _ := fullSocket(t)
		started := time.Now()
		end := run(t, d.command("prepare", "--socket", socket))
		require.Equal(t, 42, end.code)
		require.Contains(t, end.stderr, "airlock: the Airlock service does not answer at "+socket+": ")
		require.Contains(t, end.stderr, "resource temporarily unavailable")
		require.Equal(t, 1, strings.Count(end.stderr, "\n"), end.stderr)
		require.InDelta(t, 5, time.Since(started).Seconds(), 2)
	})
}

func TestUnreachableHost(t *testing.T) {
	t.Parallel()
	d := newRunnerDir(t, `{"id":1000}`)
	started := time.Now()
	end := run(t, d.command("prepare", "--socket", "/nowhere/host.sock"))
	require.Equal(t, 42, end.code)
	require.Contains(t, end.stderr, "airlock: the Airlock service does not answer at /nowhere/host.sock")
	require.Contains(t, end.stderr, "systemctl start airlock")
	require.InDelta(t, 5, time.Since(started).Seconds(), 2)
}

// A service that is down costs a job one wait and one message, however often the runner calls, and is a system failure;
// when it comes back, jobs run again and nothing of the outage is left.
func TestAJobDuringAnOutage(t *testing.T) {
	t.Parallel()
	socket, temp := filepath.Join(t.TempDir(), "host.sock"), t.TempDir()
	caller := gitlabtest.Caller{Driver: program, Args: []string{"--socket", socket}, TempDir: temp, RetryInterval: 10 * time.Millisecond}
	for id := range int64(2) {
		started := time.Now()
		end := caller.Run(t.Context(), gitlabtest.Job{ID: 77 + id, Script: []string{"true"}})
		require.Equal(t, gitlabtest.SystemFailure, end.Reason, end.Log)
		require.Equal(t, 1, strings.Count(end.Log, "does not answer at "+socket), end.Log)
		require.Equal(t, 1, strings.Count(end.Log, "systemctl start airlock"), end.Log)
		require.Equal(t, 2, strings.Count(end.Log, "airlock: there is still no answer from the Airlock service\n"), end.Log)
		require.Len(t, end.Calls, 9, "config, prepare and cleanup, three times")
		require.Greater(t, time.Since(started), 5*time.Second, "a restart is waited for")
		require.Less(t, time.Since(started), 15*time.Second)
	}
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Len(t, left, 1)

	serveAt(t, socket, answering(outcome{}))
	end := caller.Run(t.Context(), gitlabtest.Job{ID: 78, Script: []string{"true"}})
	require.Empty(t, end.Reason, end.Log)
	left, err = os.ReadDir(temp)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A note that another user left in a directory that all may write is not believed, nor written to.
func TestAnOutageThatSomebodyElseNoted(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	note := filepath.Join(temp, "airlock-outage-0")
	target := filepath.Join(temp, "precious")
	for name, plant := range map[string]func() error{
		"another user's": func() error {
			return errors.Join(os.WriteFile(note, []byte("1000 /nowhere/host.sock\n"), 0o666), os.Chown(note, 65534, 65534))
		},
		"a link": func() error {
			return errors.Join(os.WriteFile(target, []byte("1000 /nowhere/host.sock\n"), 0o600), os.Symlink(target, note))
		},
	} {
		require.NoError(t, plant())
		d := newRunnerDir(t, `{"id":1000}`)
		d.dir = filepath.Join(temp, "custom-executor1")
		require.NoError(t, os.MkdirAll(d.dir, 0o700))
		require.NoError(t, os.WriteFile(d.path("response.json"), []byte(`{"id":1000}`), 0o600))
		started := time.Now()
		end := run(t, d.command("prepare", "--socket", "/nowhere/host.sock"))
		require.Equal(t, 42, end.code, name)
		require.Contains(t, end.stderr, "does not answer at /nowhere/host.sock", name)
		require.Greater(t, time.Since(started), 4*time.Second, name)
		content, err := os.ReadFile(note)
		require.NoError(t, err)
		require.Equal(t, "1000 /nowhere/host.sock\n", string(content), name)
		require.NoError(t, os.Remove(note))
	}
}

func TestHostThatIsRestarting(t *testing.T) {
	t.Parallel()
	d := newRunnerDir(t, `{"id":1000}`)
	socket := filepath.Join(t.TempDir(), "host.sock")
	go func() {
		time.Sleep(500 * time.Millisecond)
		serveAt(t, socket, answering(outcome{}))
	}()
	require.Equal(t, ended{}, run(t, d.command("prepare", "--socket", socket)))
}

func TestSignalWhileTheHostIsAway(t *testing.T) {
	t.Parallel()
	d := newRunnerDir(t, `{"id":1000}`)
	cmd := d.command("prepare", "--socket", "/nowhere/host.sock")
	time.AfterFunc(300*time.Millisecond, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	end := run(t, cmd)
	require.Equal(t, 42, end.code)
	require.Contains(t, end.stderr, "the runner ended the call", "and not, later, that there is no host")
}

func TestForbiddenSocket(t *testing.T) {
	t.Parallel()
	d := newRunnerDir(t, "")
	socket := serve(t, answering(outcome{}))
	require.NoError(t, os.Chmod(filepath.Dir(socket), 0o700))
	cmd := d.command("cleanup", "--socket", socket)
	cmd.Dir = "/" // the test's directories are root's alone
	cmd.Env = []string{"AIRLOCK_JOB_HANDLE=" + d.handle}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	end := run(t, cmd)
	require.Equal(t, 2, end.code)
	require.Contains(t, end.stderr, "the runner's user 65534 may not use "+socket)
}

func TestOtherProtocol(t *testing.T) {
	t.Parallel()
	d := newRunnerDir(t, `{"id":1000}`)
	socket := filepath.Join(t.TempDir(), "host.sock")
	serveGreeting(t, socket, func() (api.Version, error) {
		return api.Version{Protocol: api.ProtocolVersion + 1}, nil
	}, answering(outcome{}))
	end := run(t, d.command("prepare", "--socket", socket))
	require.Equal(t, 41, end.code)
	require.Contains(t, end.stderr, "speaks protocol 3, this driver speaks 2")
}

func TestWithoutAHandle(t *testing.T) {
	for call, want := range map[string]int{"prepare": 41, "run": 42, "cleanup": 0} {
		d := newRunnerDir(t, `{"id":1000}`)
		d.handle = ""
		args := []string{call, "--socket", "/nowhere/host.sock"}
		if call == "run" {
			args = append(args, d.path("script"), "build_script")
		}
		end := run(t, d.command(args...))
		require.Equal(t, want, end.code, call)
		require.Equal(t, call != "cleanup", strings.Contains(end.stderr, "AIRLOCK_JOB_HANDLE is not set"), end.stderr)
	}
	d := newRunnerDir(t, `{"id":1000}`)
	d.handle = "../../etc"
	require.Equal(t, 42, run(t, d.command("cleanup")).code)
}

func TestWrongCommandLines(t *testing.T) {
	d := newRunnerDir(t, `{"id":1000}`)
	for _, args := range [][]string{{}, {"destroy"}, {"run"}, {"run", "script"}, {"cleanup", "x"}, {"run", "--sock", "x"}} {
		end := run(t, d.command(args...))
		require.Equal(t, 42, end.code, args)
		require.NotEmpty(t, end.stderr, args)
		require.Empty(t, end.stdout, args)
	}
	for _, args := range [][]string{{"--help"}, {"--version"}} {
		end := run(t, d.command(args...))
		require.Equal(t, 0, end.code)
		require.Contains(t, end.stdout, "airlock-driver")
	}
}

func TestFailpoints(t *testing.T) {
	for _, point := range []string{"driver/run-connected", "driver/run-sent", "driver/run-result"} {
		d := newRunnerDir(t, "")
		socket := serve(t, func(_ context.Context, call *api.Call) (int, error) {
			if _, err := receive(call); err != nil {
				return 0, err
			}
			time.Sleep(100 * time.Millisecond) // the driver's own failure comes first
			return 3, nil
		})
		for action, want := range map[string]int{"error": 42, "kill": -1} {
			cmd := d.command("run", "--socket", socket, d.path("script"), "build_script")
			cmd.Env = append(cmd.Env, "AIRLOCK_FAILPOINT="+point+"="+action)
			require.Equal(t, want, run(t, cmd).code, point)
			require.Empty(t, d.exitCode(t))
		}
	}
}

// A whole job as a runner runs it: one handle from config to cleanup, whatever the author's variables say.
func TestAWholeJob(t *testing.T) {
	var mu sync.Mutex
	var calls []string
	handles := map[string]bool{}
	socket := serve(t, func(_ context.Context, call *api.Call) (int, error) {
		in, err := receive(call)
		if err != nil {
			return 0, err
		}
		mu.Lock()
		defer mu.Unlock()
		var message struct{ Handle, Stage string }
		if err := json.Unmarshal(in.body, &message); err != nil {
			return 0, err
		}
		if in.op == api.OpPrepare {
			calls, handles[message.Handle] = append(calls, "prepare"), true
			if len(calls) == 1 {
				return 0, errors.New("not now") // the runner tries again, under another handle
			}
			return 0, nil
		}
		if !handles[message.Handle] {
			return 0, errors.New("unknown handle")
		}
		if in.op == api.OpCleanup {
			calls = append(calls, "cleanup")
			return 0, nil
		}
		calls = append(calls, message.Stage)
		if message.Stage == "build_script" {
			return 2, nil
		}
		return 0, nil
	})
	caller := gitlabtest.Caller{Driver: program, Args: []string{"--socket", socket}, TempDir: t.TempDir(), RetryInterval: time.Millisecond}
	end := caller.Run(context.Background(), gitlabtest.Job{
		ID: 77, Script: []string{"exit 2"}, AfterScript: []string{"true"}, Variables: []gitlabtest.Variable{
			{Key: "AIRLOCK_JOB_HANDLE", Value: "1-" + strings.Repeat("0", 32)}, {Key: "CI_JOB_ID", Value: "1"},
			{Key: "JOB_RESPONSE_FILE", Value: "/forged"}, {Key: "BUILD_FAILURE_EXIT_CODE", Value: "0"},
		},
	})
	require.Equal(t, gitlabtest.ScriptFailure, end.Reason, end.Log)
	require.Equal(t, 2, end.ExitCode)
	require.Equal(t, []string{
		"prepare", "cleanup", "prepare", "prepare_script", "get_sources", "build_script", "after_script", "cleanup_file_variables", "cleanup",
	}, calls)
	require.Len(t, handles, 2)
	for handle := range handles {
		require.True(t, strings.HasPrefix(handle, "77-"))
	}
	require.Contains(t, end.Log, "Using Custom executor with driver airlock dev...\n")
	require.Contains(t, end.Log, "airlock: not now\n")
	require.Empty(t, end.CleanupStderr)
}
