package supervisor

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/pluginlog"
)

// executorLogs brings the executor's log lines into the service's log. An executor that this supervisor started
// writes them to its stderr, which go-plugin drains: so its last words before a crash arrive. One that was found has
// lost its stderr with the former supervisor, so its lines are asked for.
type executorLogs struct{ log zerolog.Logger }

// hclog is the logger for go-plugin. What go-plugin reads from the executor's stderr goes through relay.
func (l *executorLogs) hclog() hclog.Logger {
	return pluginlog.New(l.log.With().Str("component", "go-plugin").Logger(), func(line string) bool {
		return l.relay([]byte(line))
	})
}

// relay writes one line of the executor's under its own level; false when it is none.
func (l *executorLogs) relay(line []byte) bool {
	if len(line) == 0 || line[0] != '{' {
		return false
	}
	fields := map[string]any{}
	if err := json.Unmarshal(line, &fields); err != nil {
		return false
	}
	message, _ := fields[zerolog.MessageFieldName].(string)
	levelName, _ := fields[zerolog.LevelFieldName].(string)
	level, err := zerolog.ParseLevel(levelName)
	if err != nil {
		level = zerolog.InfoLevel
	}
	for _, name := range []string{zerolog.MessageFieldName, zerolog.LevelFieldName, zerolog.TimestampFieldName} {
		delete(fields, name)
	}
	l.log.WithLevel(level).Str("process", "executor").Fields(fields).Msg(message)
	return true
}

// follow relays the lines of a found executor that no supervisor has logged yet: those written since the last one
// let go of it, or, when that one was killed, from now on.
func (l *executorLogs) follow(ctx context.Context, e *executor) {
	since := e.record.Left
	if since.IsZero() {
		since = time.Now()
	}
	stream, err := e.rpc.Events(ctx, &control.EventsRequest{})
	for err == nil {
		var event *control.Event
		if event, err = stream.Recv(); err == nil && !writtenBefore(event.GetJson(), since) {
			l.relay(event.GetJson())
		}
	}
	if ctx.Err() == nil && status.Code(err) != codes.Unavailable { // its end is logged elsewhere
		l.log.Warn().Err(err).Msg("the executor's log lines are no longer followed")
	}
}

// writtenBefore reports whether a line's time is before t. Lines without a readable time count as new.
func writtenBefore(line []byte, t time.Time) bool {
	var fields struct {
		Time time.Time `json:"time"`
	}
	if err := json.Unmarshal(line, &fields); err != nil || fields.Time.IsZero() {
		return false
	}
	return fields.Time.Before(t.Truncate(time.Second)) // the times may be in whole seconds
}
