package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func collect(t *testing.T, l *EventLog, job string) []string {
	t.Helper()
	var lines []string
	require.NoError(t, l.Events(t.Context(), job, false, func(json []byte) error {
		lines = append(lines, string(json))
		return nil
	}))
	return lines
}

func TestEventLogKeepsTheLatestOfAJob(t *testing.T) {
	defer goleak.VerifyNone(t)
	l := NewEventLog(3, 1<<20, nil)
	defer l.Close()
	log := zerolog.New(l)
	for i := range 5 {
		log.Info().Int("job_id", i).Str("sandbox", fmt.Sprintf("al-%d", i)).Msg("x")
	}
	require.Len(t, collect(t, l, ""), 3)
	require.Empty(t, collect(t, l, "1"), "the oldest went")
	require.Len(t, collect(t, l, "4"), 1)
	require.Equal(t, collect(t, l, "4"), collect(t, l, "al-4"))
	require.Empty(t, collect(t, l, "al"))
	_, _ = l.Write([]byte("no JSON\n"))
	require.Len(t, collect(t, l, ""), 3)

	small := NewEventLog(100, 10, nil)
	defer small.Close()
	for range 5 {
		_, _ = small.Write([]byte("1234\n"))
	}
	require.Len(t, collect(t, small, ""), 2, "10 bytes")
}

func TestEventLogFollowersGetEverythingAndNobodyWaits(t *testing.T) {
	defer goleak.VerifyNone(t)
	reader, writer, err := os.Pipe() // nobody reads it
	require.NoError(t, err)
	l := NewEventLog(1000, 1<<20, writer)
	_, _ = l.Write([]byte(`{"n":"first"}`))
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var got []string
	ended := make(chan error, 1)
	go func() {
		ended <- l.Events(ctx, "", true, func(json []byte) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(json))
			return nil
		})
	}()
	for i := range 200 {
		_, _ = l.Write([]byte(strings.Repeat("x", 1000) + fmt.Sprint(i)))
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) > 0 && strings.HasSuffix(got[len(got)-1], "x199")
	}, 20*time.Second, time.Millisecond, "a stuck tee holds nobody back")
	require.Len(t, got, 201)
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, reader.Close()) // the tee's write fails, and that is all
	l.Close()
	require.NoError(t, writer.Close())
	_, _ = l.Write([]byte("after the end"))
}

func TestEventLogTellsASlowFollowerWhatItMissed(t *testing.T) {
	l := NewEventLog(2, 1<<20, nil)
	defer l.Close()
	_, _ = l.Write([]byte("0"))
	var got []string
	stop := errors.New("enough")
	err := l.Events(t.Context(), "", true, func(json []byte) error {
		got = append(got, string(json))
		if len(got) == 1 {
			for i := 1; i <= 5; i++ {
				_, _ = fmt.Fprintf(l, "%d", i)
			}
		}
		if string(json) == "5" {
			return stop
		}
		return nil
	})
	require.ErrorIs(t, err, stop)
	require.Equal(t, []string{
		"0", `{"level":"warn","message":"3 log lines were dropped: the reader is too slow"}`, "4", "5",
	}, got)
}
