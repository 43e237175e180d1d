// Package pluginlog lets go-plugin log through zerolog, on both sides of its boundary.
package pluginlog

import (
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
	"github.com/rs/zerolog"
)

// New returns a logger for go-plugin that writes to log. It hands lines on through handle first, when that
// is not nil: one that returns true has dealt with the line.
func New(log zerolog.Logger, handle func(line string) bool) hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Trace})
	logger.RegisterSink(&sink{log: log, handle: handle})
	return logger
}

// sink must be used as a pointer: hclog keeps its sinks as map keys.
type sink struct {
	log    zerolog.Logger
	handle func(line string) bool
}

// Accept implements hclog.SinkAdapter.
func (s *sink) Accept(_ string, level hclog.Level, message string, args ...any) {
	if s.handle != nil && s.handle(message) {
		return
	}
	event := s.log.WithLevel(zerologLevel(level))
	for i := 0; i+1 < len(args); i += 2 {
		event = event.Interface(fmt.Sprint(args[i]), plain(args[i+1]))
	}
	event.Msg(message)
}

// plain keeps an error's text, which JSON would lose.
func plain(v any) any {
	if err, ok := v.(error); ok {
		return err.Error()
	}
	return v
}

func zerologLevel(level hclog.Level) zerolog.Level {
	switch level {
	case hclog.Trace:
		return zerolog.TraceLevel
	case hclog.Debug:
		return zerolog.DebugLevel
	case hclog.Warn:
		return zerolog.WarnLevel
	case hclog.Error:
		return zerolog.ErrorLevel
	default:
		return zerolog.InfoLevel
	}
}
