//go:build linux

package identity

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHandleReachesOnlyTheProcessMeant(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()

	id, err := Of(cmd.Process.Pid)
	require.NoError(t, err)

	stranger := id
	stranger.Start-- // the id of the file, taken over by another process since
	_, err = Open(stranger)
	require.ErrorIs(t, err, ErrGone)
	otherBoot := id
	otherBoot.Boot = "another"
	_, err = Open(otherBoot)
	require.ErrorIs(t, err, ErrGone)

	h, err := Open(id)
	require.NoError(t, err)
	defer h.Close()
	select {
	case <-h.Exited():
		t.Fatal("a living process counts as ended")
	default:
	}

	require.NoError(t, h.Terminate())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, h.Wait(ctx), "the end is seen before the process is reaped")
	_, err = Open(id)
	require.ErrorIs(t, err, ErrGone, "a zombie is gone")
	_ = cmd.Wait()
	_, err = Of(id.PID)
	require.ErrorIs(t, err, ErrGone)
	require.NoError(t, h.Kill(), "ending what has ended is no error")
}

func TestParseStartCountsFromTheCommandName(t *testing.T) {
	start, err := parseStart([]byte("7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20\n"))
	require.NoError(t, err)
	require.Equal(t, uint64(4711), start)
	for _, broken := range []string{"", "7 (x", "7 (x) S 1 2"} {
		_, err := parseStart([]byte(broken))
		require.Error(t, err, broken)
	}
}

func TestLockHasOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	lock, err := Acquire(path)
	require.NoError(t, err)

	_, err = Acquire(path)
	require.ErrorIs(t, err, ErrLocked)
	self, err := Self()
	require.NoError(t, err)
	holder, err := Holder(path)
	require.NoError(t, err)
	require.Equal(t, self, holder)

	lock.Release()
	lock, err = Acquire(path)
	require.NoError(t, err)
	lock.Release()
}
