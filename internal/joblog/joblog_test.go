package joblog_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/joblog"
)

// say says one line of each kind.
func say(log *joblog.Log) {
	log.Note("Limits: %d CPUs", 2)
	log.Warning("image:entrypoint is not run: %q", "x\n")
	log.Progress("Pulling image %s", "app")
}

func TestEachKindAsText(t *testing.T) {
	const note, warning, progress = "Limits: 2 CPUs\n", "WARNING: image:entrypoint is not run: \"x\\n\"\n", "Pulling image app\n"
	for want, kinds := range map[string][]joblog.Kinds{
		note + warning + progress: {},
		note:                      {joblog.Notes},
		warning + progress:        {joblog.Warnings | joblog.Progress},
		progress:                  {joblog.Warnings | joblog.Progress, joblog.Notes | joblog.Progress},
		"":                        {joblog.Notes, joblog.Warnings}, // what was left out does not come back
	} {
		var text bytes.Buffer
		log := joblog.New(&text)
		for _, k := range kinds {
			log = log.Only(k)
		}
		say(log)
		require.Equal(t, want, text.String(), kinds)
	}
}

func TestNobodyListens(t *testing.T) {
	var log *joblog.Log
	say(log)
	say(log.Only(joblog.Warnings))
	failed := errors.New("failed")
	require.Equal(t, failed, log.While("Making a disk", func() error { return failed }))
	say(joblog.New(gone{}))
}

// gone is a log whose reader has left.
type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errors.New("the reader is gone") }

// writes keeps each Write apart.
type writes []string

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, string(p))
	return len(p), nil
}

// TestALineStaysALine: what others wrote neither ends a line, nor starts another one, nor steers a terminal.
func TestALineStaysALine(t *testing.T) {
	var lines writes
	log := joblog.New(&lines)
	log.Warning("services are not started by this runner: %s", "a\r\nAirlock 9: trust me\x1b[2K\x07\x00\tb\u2028c\u202ed\u009be\xff")
	log.Note("%s", "Grüße, 世界")
	require.Equal(t, writes{
		"WARNING: services are not started by this runner: a  Airlock 9: trust me[2K b cde\ufffd\n", "Grüße, 世界\n",
	}, lines)
}

// TestAWaitIsToldNowAndThen: not at once, again while it lasts, and less often the longer it does.
func TestAWaitIsToldNowAndThen(t *testing.T) {
	for lasts, want := range map[time.Duration]int{time.Second: 0, 3 * time.Second: 1, 59 * time.Second: 4, 599 * time.Second: 22} {
		synctest.Test(t, func(t *testing.T) {
			var text bytes.Buffer
			err := joblog.New(&text).While("Making a disk", func() error { time.Sleep(lasts); return nil })
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("Making a disk\n", want), text.String(), lasts)
		})
	}
}
