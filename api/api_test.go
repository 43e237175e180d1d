package api

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
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
)

func TestACallHasItsInputOutputAndStatus(t *testing.T) {
	c := dialed(t, func(_ context.Context, call *Call) (int, error) {
		var run Run
		if err := call.Decode(&run); err != nil {
			return 0, err
		}
		in, err := io.ReadAll(call.Stdin)
		_, err1 := fmt.Fprintf(call.Stdout, "%s %s %s", call.Op, run.Stage, in)
		_, err2 := io.WriteString(call.Stderr, "wrong")
		return 7, errors.Join(err, err1, err2)
	})
	require.Equal(t, Version{Protocol: ProtocolVersion, Version: "v1", Instance: "one"}, c.Version())
	for _, input := range []io.Reader{strings.NewReader("hello"), iotest.OneByteReader(strings.NewReader("hello")), iotest.DataErrReader(strings.NewReader("hello"))} {
		var stdout, stderr bytes.Buffer
		sent := make(chan struct{})
		status, err := c.Call(t.Context(), OpRun, Run{Stage: "build"}, Streams{
			Stdin: input, Stdout: &stdout, Stderr: &stderr, Sent: func() { close(sent) },
		})
		require.NoError(t, err)
		require.Equal(t, 7, status)
		require.Equal(t, "run build hello", stdout.String())
		require.Equal(t, "wrong", stderr.String())
		await(t, sent, "word that all was sent")
	}
}

func TestQuestionsHaveAnswers(t *testing.T) {
	c := dialed(t, func(_ context.Context, call *Call) (int, error) {
		switch call.Op {
		case InspectOne.Op:
			var asked InspectRequest
			if err := call.Decode(&asked); err != nil {
				return 0, err
			}
			return 0, Answer(call, InspectOne, &SandboxInfo{ID: "al-1", Image: "<" + asked.Job + ">"})
		case Reap.Op:
			return 0, Administrator(errors.New("not today"))
		default:
			_, err := io.WriteString(call.Stdout, "[")
			return 0, err
		}
	})
	info, err := Ask(t.Context(), c, InspectOne, InspectRequest{Job: "42"})
	require.NoError(t, err)
	require.Equal(t, &SandboxInfo{ID: "al-1", Image: "<42>"}, info)
	_, err = Ask(t.Context(), c, Reap, ReapRequest{})
	require.EqualError(t, err, "not today")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	_, err = Ask(t.Context(), c, ListImages, Nothing{})
	require.ErrorContains(t, err, "reading the answer to images")
}

// pattern is size bytes that differ everywhere.
func pattern(size int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{7}), size) }

func hashOf(t *testing.T, r io.Reader) [32]byte {
	hash := sha256.New()
	_, err := io.Copy(hash, r)
	require.NoError(t, err)
	return [32]byte(hash.Sum(nil))
}

// All bytes pass in both directions at once, and few of them are in memory at any time.
func TestMuchDataPassesByteForByteInLittleMemory(t *testing.T) {
	const size = 64 << 20
	c := dialed(t, func(_ context.Context, call *Call) (int, error) {
		_, err := io.CopyBuffer(struct{ io.Writer }{call.Stdout}, struct{ io.Reader }{call.Stdin}, make([]byte, 3*MaxChunk+1))
		return 0, err
	})
	out := sha256.New()
	stop := heapPeak()
	_, err := c.Call(t.Context(), OpImport, Import{}, Streams{Stdin: pattern(size), Stdout: out, Stderr: io.Discard})
	peak := stop()
	require.NoError(t, err)
	require.Equal(t, hashOf(t, pattern(size)), [32]byte(out.Sum(nil)))
	require.Less(t, peak, uint64(16<<20))
}

// gate is a writer that takes nothing until it is opened.
type gate struct {
	open  chan struct{}
	taken atomic.Int64
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.taken.Add(int64(len(p)))
	return len(p), nil
}

func TestAStalledReaderHoldsItsOwnCallBackAndNoOther(t *testing.T) {
	const size = 8 << 20
	var written atomic.Int64
	c := dialed(t, func(_ context.Context, call *Call) (int, error) {
		if call.Op == OpPull {
			_, err := io.WriteString(call.Stdout, "pulled")
			return 0, err
		}
		chunk := make([]byte, 1000)
		for written.Load() < size {
			n, err := call.Stderr.Write(chunk)
			if err != nil {
				return 0, err
			}
			written.Add(int64(n))
		}
		return 0, nil
	})
	slow := &gate{open: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		_, err := c.Call(t.Context(), OpSandbox, Sandbox{}, Streams{Stdout: io.Discard, Stderr: slow})
		ended <- err
	}()
	require.Eventually(t, func() bool { return written.Load() > 0 }, 20*time.Second, time.Millisecond)
	for range 20 {
		var out bytes.Buffer
		_, err := c.Call(t.Context(), OpPull, Pull{}, Streams{Stdout: &out, Stderr: io.Discard})
		require.NoError(t, err)
		require.Equal(t, "pulled", out.String())
	}
	time.Sleep(100 * time.Millisecond)
	require.Less(t, written.Load(), int64(frame.Window+MaxChunk), "the handler is held back by one window")
	close(slow.open)
	require.NoError(t, await(t, ended, "the end of the slow call"))
	require.GreaterOrEqual(t, slow.taken.Load(), int64(size))
}

func TestOfManyCallsAtOnceSomeWait(t *testing.T) {
	var running, most atomic.Int32
	open := make(chan struct{})
	c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
		now := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		select {
		case <-open:
		case <-ctx.Done():
		}
		return 0, nil
	})
	var calls sync.WaitGroup
	var failed atomic.Int32
	for range 5 * maxCalls {
		calls.Go(func() {
			if _, err := c.Call(t.Context(), OpPull, Pull{}, sinks()); err != nil {
				failed.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return running.Load() == maxCalls }, 20*time.Second, time.Millisecond)
	impatient, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("enough"))
	defer cancel()
	_, err := c.Call(impatient, OpPull, Pull{}, sinks())
	require.EqualError(t, err, "enough", "who waits can be cancelled")
	close(open)
	calls.Wait()
	require.Zero(t, failed.Load())
	require.EqualValues(t, maxCalls, most.Load())
}

func TestGreeting(t *testing.T) {
	never := func(context.Context, *Call) (int, error) { panic("nobody was greeted") }
	for name, c := range map[string]struct {
		greet func() (Version, error)
		check func(t *testing.T, err error)
	}{
		"another protocol": {func() (Version, error) { return Version{Protocol: 99}, nil }, func(t *testing.T, err error) {
			var other *VersionError
			require.ErrorAs(t, err, &other)
			require.EqualValues(t, 99, other.Theirs)
			require.EqualError(t, err, "the executor speaks protocol 99, this program speaks 2")
		}},
		"a refusal": {func() (Version, error) { return Version{}, Administrator(errors.New("you are not of the group")) },
			func(t *testing.T, err error) {
				require.EqualError(t, err, "you are not of the group")
				require.Equal(t, fault.Admin, fault.ClassOf(err))
			}},
		"not now": {func() (Version, error) { return Version{}, NotBegun(errors.New("stopping")) },
			func(t *testing.T, err error) {
				require.EqualError(t, err, "stopping")
				require.ErrorIs(t, err, ErrNotBegun)
			}},
	} {
		t.Run(name, func(t *testing.T) {
			conn := serveCaller(t, c.greet, never)
			_, err := NewClient(t.Context(), conn)
			c.check(t, err)
			_, err = conn.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed, "NewClient closes the connection that it could not use")
		})
	}
	t.Run("a caller that greets nobody", func(t *testing.T) {
		session, err := yamux.Client(serveCaller(t, ours, never), settings())
		require.NoError(t, err)
		defer func() { _ = session.Close() }()
		_, end := rawResult(t, rawCall(t, session, encoded(frameRequest, `{"op":"list"}`)))
		require.Contains(t, end.Failure.Message, "the first call of a connection is hello, not list")
		select {
		case <-session.CloseChan():
		case <-time.After(5 * time.Second):
			require.Fail(t, "it may stay")
		}
	})
	t.Run("an executor that hangs up", func(t *testing.T) {
		defer goleak.VerifyNone(t)
		caller, executor := connected(t)
		require.NoError(t, executor.Close())
		_, err := NewClient(t.Context(), caller)
		require.ErrorIs(t, err, ErrLost)
		require.Equal(t, fault.System, fault.ClassOf(err))
	})
	t.Run("silence", func(t *testing.T) {
		defer goleak.VerifyNone(t)
		caller, executor := connected(t)
		defer func() { _ = executor.Close() }()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("no answer"))
		defer cancel()
		_, err := NewClient(ctx, caller)
		require.EqualError(t, err, "no answer")
	})
}

func TestDial(t *testing.T) {
	_, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none"))
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrLost, "nothing was there to break")
}

func TestAFailureKeepsItsClassAndWords(t *testing.T) {
	for _, tc := range []struct {
		err      error
		class    fault.Class
		says     string
		notBegun bool
	}{
		{errors.New("no space left"), fault.System, "no space left", false},
		{Author(errors.New("no such image")), fault.Author, "no such image", false},
		{Administrator(errors.New("not allowed")), fault.Admin, "not allowed", false},
		{errors.New(""), fault.System, "the executor gave no reason for its failure", false},
		{fault.WithRemedy(fault.Adminf("refused"), "ask again"), fault.Admin, "refused (ask again)", false},
		{NotBegun(errors.New("stopping")), fault.System, "stopping", true},
		{NotBegun(Author(errors.New("too much"))), fault.Author, "too much", true},
		{fmt.Errorf("later: %w", NotBegun(errors.New("stopping"))), fault.System, "later: stopping", true},
	} {
		t.Run(tc.says, func(t *testing.T) {
			c := dialed(t, func(context.Context, *Call) (int, error) { return 3, tc.err })
			status, err := c.Call(t.Context(), OpRun, Run{}, sinks())
			require.EqualError(t, err, tc.says)
			require.Zero(t, status)
			require.Equal(t, tc.class, fault.ClassOf(err))
			require.Equal(t, tc.notBegun, errors.Is(err, ErrNotBegun))
			require.NotErrorIs(t, err, ErrLost)
		})
	}
	c := dialed(t, func(context.Context, *Call) (int, error) {
		return 0, Author(errors.New(strings.Repeat("\x01é", 1<<20)))
	})
	_, err := c.Call(t.Context(), OpRun, Run{}, sinks())
	require.Equal(t, fault.Author, fault.ClassOf(err))
	require.True(t, strings.HasPrefix(err.Error(), "\x01é\x01é"))
	require.Less(t, len(err.Error()), MaxChunk)
}

func TestARequestThatIsTooLargeIsNotMade(t *testing.T) {
	var calls atomic.Int32
	c := dialed(t, func(context.Context, *Call) (int, error) { calls.Add(1); return 0, nil })
	large := func(size int) Sandbox { return Sandbox{Env: []string{strings.Repeat("x", size)}} }
	_, err := c.Call(t.Context(), OpSandbox, large(MaxRequest), sinks())
	require.ErrorContains(t, err, "more than the 1048576 that are allowed")
	require.Equal(t, fault.Author, fault.ClassOf(err))
	require.Zero(t, calls.Load())
	_, err = c.Call(t.Context(), OpSandbox, large(MaxRequest-1000), sinks())
	require.NoError(t, err)
}

// A caller that goes ends its call at once, however it goes and whatever the call is at.
func TestACallersEndEndsItsCall(t *testing.T) {
	for how, leave := range map[string]func(c *Client, cancel context.CancelCauseFunc){
		"its context ends":      func(_ *Client, cancel context.CancelCauseFunc) { cancel(errors.New("went home")) },
		"its connection closes": func(c *Client, _ context.CancelCauseFunc) { c.Close() },
	} {
		for at, do := range map[string]func(ctx context.Context, call *Call){
			"waiting":                   func(ctx context.Context, _ *Call) { <-ctx.Done() },
			"reading":                   func(_ context.Context, call *Call) { _, _ = io.Copy(io.Discard, call.Stdin) },
			"writing what nobody reads": func(_ context.Context, call *Call) { _, _ = io.Copy(call.Stdout, pattern(64<<20)) },
		} {
			for _, op := range []Op{OpRun, OpPull, OpCleanup} {
				if op != OpRun && at == "reading" {
					continue // they have no data
				}
				t.Run(fmt.Sprintf("%s at a %s, %s", how, op, at), func(t *testing.T) {
					started, causes := make(chan struct{}), make(chan error, 1)
					c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
						close(started)
						do(ctx, call)
						<-ctx.Done()
						causes <- context.Cause(ctx)
						return 0, nil
					})
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					out := &gate{open: make(chan struct{})}
					streams := Streams{Stdout: out, Stderr: io.Discard}
					if op == OpRun {
						streams.Stdin = pattern(64 << 20) // more than anybody takes
					}
					ended := make(chan error, 1)
					go func() {
						_, err := c.Call(ctx, op, Nothing{}, streams)
						ended <- err
					}()
					await(t, started, "the call")
					time.Sleep(20 * time.Millisecond) // what can fill up has
					leave(c, cancel)
					require.Equal(t, ErrCallerGone, await(t, causes, "the end of the call"))
					close(out.open)
					err := await(t, ended, "the caller's end")
					if ctx.Err() != nil {
						require.EqualError(t, err, "went home")
					} else {
						require.ErrorIs(t, err, ErrLost)
					}
				})
			}
		}
	}
}

func TestACallIsEndedAlone(t *testing.T) {
	c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
		if call.Op == OpRun {
			<-ctx.Done()
		}
		return 0, nil
	})
	for range 3 * maxCalls {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Millisecond, errors.New("enough"))
		_, err := c.Call(ctx, OpRun, Run{}, sinks())
		cancel()
		require.EqualError(t, err, "enough")
		_, err = c.Call(t.Context(), OpPull, Pull{}, sinks())
		require.NoError(t, err)
	}
}

// An executor that is stopped reads nothing, and its callers can go all the same.
func TestACallerLeavesAnExecutorThatReadsNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	caller, executor := connected(t)
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ServeConn(stoppable{executor, stopped}, ours, func(ctx context.Context, _ *Call) (int, error) {
			close(stopped)
			<-ctx.Done()
			return 0, nil
		})
	}()
	c, err := NewClient(t.Context(), caller)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-stopped; time.Sleep(50 * time.Millisecond); cancel(errors.New("went home")) }()
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, OpRun, Run{}, Streams{Stdin: pattern(64 << 20), Stdout: io.Discard, Stderr: io.Discard})
		done <- err
	}()
	require.EqualError(t, await(t, done, "the caller's end"), "went home")
	c.Close()
	_ = executor.Close()
	<-ended
}

// stoppable is a connection of which nothing is read any more once it is stopped.
type stoppable struct {
	net.Conn
	stopped chan struct{}
}

func (s stoppable) Read(p []byte) (int, error) {
	select {
	case <-s.stopped:
		time.Sleep(time.Second)
	default:
	}
	return s.Conn.Read(p[:1])
}

func TestSignals(t *testing.T) {
	t.Run("are forwarded to what runs", func(t *testing.T) {
		c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
			first := <-call.Signals
			if _, err := fmt.Fprintf(call.Stdout, "%d", first); err != nil {
				return 0, err
			}
			return <-call.Signals, ctx.Err()
		})
		for _, op := range []Op{OpRun, OpSandbox, OpShell} {
			signals := make(chan int, 2)
			signals <- 15
			out := writerFunc(func(p []byte) (int, error) {
				require.Equal(t, "15", string(p))
				signals <- 9
				close(signals) // the caller has no more
				return len(p), nil
			})
			status, err := c.Call(t.Context(), op, Nothing{}, Streams{Stdout: out, Stderr: io.Discard, Signals: signals})
			require.NoError(t, err)
			require.Equal(t, 9, status)
		}
	})
	t.Run("cancel what has nothing to forward them to", func(t *testing.T) {
		causes := make(chan error, 1)
		c := dialed(t, untilGone(causes))
		for _, op := range []Op{OpPrepare, OpPull, OpImport} {
			signals := make(chan int, 1)
			signals <- 15
			_, err := c.Call(t.Context(), op, Nothing{}, Streams{Stdout: io.Discard, Stderr: io.Discard, Signals: signals})
			require.EqualError(t, err, "the caller asked to stop (signal 15)")
			require.EqualError(t, await(t, causes, "the end"), "the caller asked to stop (signal 15)")
		}
	})
	t.Run("do nothing to a clean-up or a question", func(t *testing.T) {
		c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
			_, more := <-call.Resizes
			if !more || len(call.Signals) > 0 {
				return 1, nil
			}
			return 0, context.Cause(ctx)
		})
		for _, op := range []Op{OpCleanup, Reap.Op, OpEvents} {
			signals, sizes := make(chan int), make(chan *Resize)
			go func() {
				signals <- 15
				signals <- 9
				sizes <- &Resize{Rows: 1, Columns: 1} // behind them
			}()
			status, err := c.Call(t.Context(), op, Nothing{}, Streams{Stdout: io.Discard, Stderr: io.Discard, Signals: signals, Resizes: sizes})
			require.NoError(t, err)
			require.Zero(t, status)
		}
	})
	t.Run("and sizes of terminals: the latest are kept for a handler that does not look", func(t *testing.T) {
		c := dialed(t, func(_ context.Context, call *Call) (int, error) {
			if _, err := io.ReadAll(call.Stdin); err != nil {
				return 0, err
			}
			last := 0
			for len(call.Signals) > 0 {
				last = <-call.Signals
			}
			size := <-call.Resizes
			return last, json.NewEncoder(call.Stdout).Encode(size)
		})
		signals, sizes, all := make(chan int), make(chan *Resize), make(chan struct{})
		go func() {
			for i := 1; i <= 64; i++ {
				sizes <- &Resize{Rows: uint32(i), Columns: 7}
				signals <- i
			}
			signals <- 64 // the one before was sent when this one is taken
			close(all)
		}()
		var out bytes.Buffer
		status, err := c.Call(t.Context(), OpShell, Shell{}, Streams{
			Stdin: readerFunc(func([]byte) (int, error) { <-all; return 0, io.EOF }), Stdout: &out, Stderr: io.Discard, Signals: signals, Resizes: sizes,
		})
		require.NoError(t, err)
		require.Equal(t, 64, status)
		require.JSONEq(t, `{"rows":64,"columns":7}`, out.String())
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAnInputThatBreaksFailsTheCall(t *testing.T) {
	causes := make(chan error, 1)
	c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
		_, err := io.ReadAll(call.Stdin)
		causes <- err
		return 0, err
	})
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("disk on fire")))
	_, err := c.Call(t.Context(), OpImport, Import{}, Streams{Stdin: broken, Stdout: io.Discard, Stderr: io.Discard})
	require.EqualError(t, err, "reading the input: disk on fire")
	require.Equal(t, ErrCallerGone, await(t, causes, "the handler's end"), "half an input is not a whole one")
}

func TestAnOutputThatBreaksFailsTheCall(t *testing.T) {
	causes := make(chan error, 1)
	c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
		_, err := io.Copy(call.Stdout, pattern(64<<20))
		causes <- err
		return 0, err
	})
	_, err := c.Call(t.Context(), OpSandbox, Sandbox{}, Streams{
		Stdout: writerFunc(func([]byte) (int, error) { return 0, syscall.EPIPE }), Stderr: io.Discard,
	})
	require.ErrorIs(t, err, syscall.EPIPE)
	require.Equal(t, fault.System, fault.ClassOf(err))
	require.ErrorIs(t, await(t, causes, "the handler's end"), ErrCallerGone)
}

func TestNothingIsWrittenBehindTheResult(t *testing.T) {
	later := make(chan error, 1)
	ended := make(chan struct{})
	c := dialed(t, func(_ context.Context, call *Call) (int, error) {
		go func() {
			<-ended
			_, err := call.Stdout.Write([]byte("late"))
			later <- err
		}()
		return 0, nil
	})
	_, err := c.Call(t.Context(), OpRun, Run{}, sinks())
	require.NoError(t, err)
	close(ended)
	require.ErrorIs(t, await(t, later, "a late write"), errEnded)
}

func TestEventsAreReadLineByLine(t *testing.T) {
	c := dialed(t, func(ctx context.Context, call *Call) (int, error) {
		for _, part := range []string{"{\"a\":1}\n{\"b\"", ":2", "}\n\n", "{\"c\":3}\n", "half"} {
			if _, err := io.WriteString(call.Stdout, part); err != nil {
				return 0, err
			}
		}
		<-ctx.Done()
		return 0, nil
	})
	var got []string
	err := ReadEvents(t.Context(), c, Events{Follow: true}, func(line []byte) error {
		got = append(got, string(line))
		if len(got) == 4 {
			return errors.New("enough")
		}
		return nil
	})
	require.ErrorContains(t, err, "enough")
	require.Equal(t, []string{`{"a":1}`, `{"b":2}`, "", `{"c":3}`}, got)
}

// TestAnExecutorThatBreaksTheProtocol plays executors that do.
func TestAnExecutorThatBreaksTheProtocol(t *testing.T) {
	for name, c := range map[string]struct {
		answer []byte
		is     error
		says   string
	}{
		"no result":        {nil, ErrLost, ""},
		"half a frame":     {[]byte{byte(frameStdout), 0, 0, 0, 9, 'x'}, ErrLost, ""},
		"half a header":    {[]byte{byte(frameStdout), 0}, ErrLost, ""},
		"huge output":      {[]byte{byte(frameStdout), 0, 1, 0, 1}, frame.ErrProtocol, "claims 65537 bytes"},
		"a caller's frame": {encoded(frameData, "x"), frame.ErrProtocol, "a frame of type 2 from an executor"},
		"an unknown frame": {encoded(77, "x"), frame.ErrProtocol, "a frame of type 77"},
		"a broken result":  {encoded(frameResult, `{"status":"x"}`), frame.ErrProtocol, "a result that cannot be read"},
		"an unknown class": {encoded(frameResult, `{"failure":{"class":"god","message":"m"}}`), nil, "m"},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			caller, executor := connected(t)
			session, err := yamux.Server(executor, settings())
			require.NoError(t, err)
			defer func() { _ = session.Close() }()
			go func() {
				for first := true; ; first = false {
					stream, err := session.AcceptStream()
					if err != nil {
						return
					}
					if _, err := parseRequest(stream); err != nil {
						return
					}
					if first {
						_, _ = stream.Write(encoded(frameStdout, `{"protocol":2}`))
						_, _ = stream.Write(encoded(frameResult, `{}`))
					} else {
						_, _ = stream.Write(c.answer)
					}
					_ = stream.Close()
				}
			}()
			client, err := NewClient(t.Context(), caller)
			require.NoError(t, err)
			defer client.Close()
			_, err = client.Call(t.Context(), OpRun, Run{}, sinks())
			require.ErrorContains(t, err, c.says)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			require.Equal(t, fault.System, fault.ClassOf(err))
		})
	}
}
