package agent_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// digest counts and hashes what is written, at first slowly.
type digest struct {
	hash.Hash
	n, slow int64
}

func (d *digest) Write(p []byte) (int, error) {
	if d.n < d.slow {
		time.Sleep(2 * time.Millisecond)
	}
	d.n += int64(len(p))
	return d.Hash.Write(p)
}

func TestStreamsAreKeptApart(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	got := s.run(isolation.ProcessSpec{Script: []byte("for i in $(seq 500); do echo out $i; echo err $i >&2; done; printf 'a\\0\\377\\r\\n'; printf 'no newline' >&2")})
	var out, err strings.Builder
	for i := 1; i <= 500; i++ {
		fmt.Fprintf(&out, "out %d\n", i)
		fmt.Fprintf(&err, "err %d\n", i)
	}
	require.Equal(t, out.String()+"a\x00\xff\r\n", got.stdout)
	require.Equal(t, err.String()+"no newline", got.stderr)
}

func TestMuchOutputIsExactAndBounded(t *testing.T) {
	const size = 128 << 20 // on each of the two streams
	s := startSandbox(t, sandboxOptions{})
	want := sha256.New()
	seq := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	for range size / len(seq) {
		want.Write(seq)
	}
	out, errs := &digest{Hash: sha256.New(), slow: 8 << 20}, &digest{Hash: sha256.New()}
	p := s.begin(isolation.ProcessSpec{Stdout: out, Stderr: errs, Script: []byte(
		"yes 0123456789abcde | head -c 134217728 & yes 0123456789abcde | head -c 134217728 >&2 & wait")})
	s.wait(p)
	require.EqualValues(t, size, out.n)
	require.EqualValues(t, size, errs.n)
	require.Equal(t, want.Sum(nil), out.Sum(nil))
	require.Equal(t, want.Sum(nil), errs.Sum(nil))
	for who, pid := range map[string]string{"agent": strconv.Itoa(s.pid), "executor": "self"} {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		require.NoError(t, err)
		require.Less(t, field(t, status, "VmRSS"), 64<<10, who)
	}
}

// stalled is a consumer that blocks until it is released.
type stalled struct {
	once    sync.Once
	entered chan struct{}
	release chan struct{}
	syncbuf.Buffer
}

func newStalled() *stalled {
	return &stalled{entered: make(chan struct{}), release: make(chan struct{})}
}

func (s *stalled) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.entered) })
	<-s.release
	return s.Buffer.Write(p)
}

func TestStalledConsumerStopsNothingElse(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	consumer := newStalled()
	p := s.begin(isolation.ProcessSpec{Stdout: consumer, Script: []byte("yes")})
	<-consumer.entered
	time.Sleep(200 * time.Millisecond) // until every buffer is full

	_, err := s.Ping(soon(t))
	require.NoError(t, err)
	session := s.run(isolation.ProcessSpec{Interactive: true, Script: []byte("seq 100000")})
	require.True(t, strings.HasSuffix(session.stdout, "\n100000\n"))

	require.NoError(t, p.Signal(soon(t), 9))
	require.Empty(t, s.others(), "killed, although nobody reads its output")
	select {
	case <-waited(p):
		t.Fatal("Wait returned before the output was delivered")
	case <-time.After(50 * time.Millisecond):
	}
	close(consumer.release)
	require.Equal(t, 137, s.wait(p).Code)
	got := consumer.String()
	require.Equal(t, strings.Repeat("y\n", len(got)/2), got)
	require.Greater(t, len(got), 64<<10)
	require.Less(t, len(got), 4<<20, "no more than the buffers hold")
}

func waited(p isolation.Process) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		p.Wait()
		close(done)
	}()
	return done
}

func TestConnectionEndsWhileTheConsumerBlocks(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	consumer := newStalled()
	defer close(consumer.release)
	p := s.begin(isolation.ProcessSpec{Stdout: consumer, Script: []byte("yes")})
	<-consumer.entered
	require.NoError(t, s.Close())
	_, err := waitWithin(t, p, 5*time.Second)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
}

type broken struct{ writes int }

func (b *broken) Write([]byte) (int, error) {
	b.writes++
	return 0, errors.New("nobody reads this")
}

func TestConsumerThatFailsIsLeftAlone(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	var out broken
	var errs bytes.Buffer
	p := s.begin(isolation.ProcessSpec{Stdout: &out, Stderr: &errs, Script: []byte("yes | head -c 10000000; echo after >&2; exit 9")})
	require.Equal(t, 9, s.wait(p).Code)
	require.Equal(t, 1, out.writes)
	require.Equal(t, "after\n", errs.String())
}

func TestWithoutConsumers(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	require.Equal(t, 6, s.wait(s.begin(isolation.ProcessSpec{Script: []byte("yes | head -c 10000000; exit 6")})).Code)
}

func TestTerminal(t *testing.T) {
	for _, helper := range []bool{false, true} {
		t.Run(fmt.Sprintf("helper: %v", helper), func(t *testing.T) {
			s := startSandbox(t, sandboxOptions{})
			var out syncbuf.Buffer
			stdin, keyboard := io.Pipe()
			defer keyboard.Close()
			p := s.begin(isolation.ProcessSpec{
				Interactive: true, TTY: true, Rows: 40, Columns: 132, Stdin: stdin, Stdout: &out, Helper: helper, User: "app",
				Env: []string{"PS1=prompt> "},
			})
			shows := func(text string) {
				t.Helper()
				require.Eventually(t, func() bool { return strings.Contains(out.String(), text) }, 20*time.Second, 2*time.Millisecond,
					"the terminal shows %q", text)
			}
			keys := func(text string) {
				t.Helper()
				_, err := io.WriteString(keyboard, text)
				require.NoError(t, err)
			}
			shows("prompt> ")
			keys("test -t 0 -a -t 1 -a -t 2 && echo a $((1+1)) terminal; echo $TERM; stty size\n")
			shows("a 2 terminal\r\nxterm\r\n40 132\r\n")
			require.NoError(t, p.Resize(soon(t), 50, 100))
			keys("stty size; echo to stderr >&2\n")
			shows("50 100\r\nto stderr\r\n")
			keys("sh -c 'echo be''gun; exec sleep 1000'\n") // written so that the echo of the keys is not taken for it
			shows("begun\r\n")
			keys("\x03")
			keys("echo interrupted $?; : </dev/tty && echo control$((40+2))\n")
			shows("interrupted 130\r\n")
			shows("control42\r\n")
			keys("exit 5\n")
			require.Equal(t, 5, s.wait(p).Code)
			require.NoError(t, p.Resize(soon(t), 1, 1), "too late is no error")
		})
	}
}

func TestTerminalOutputIsComplete(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	for range 20 {
		got := s.run(isolation.ProcessSpec{TTY: true, Args: []string{"sh", "-c", "seq 5000; printf end"}})
		require.True(t, strings.HasSuffix(got.stdout, "\r\n5000\r\nend"), "%q", got.stdout[max(0, len(got.stdout)-50):])
	}
}

func TestEndOfInputOnATerminal(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	got := s.run(isolation.ProcessSpec{TTY: true, Args: []string{"cat"}, Stdin: strings.NewReader("line\n")})
	require.Zero(t, got.Code)
	require.Contains(t, got.stdout, "line\r\nline\r\n")
}
