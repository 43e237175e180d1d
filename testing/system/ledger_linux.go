package system

import (
	"time"

	"github.com/airlock-ci/airlock/testing/leakcheck"
)

// Ledger is how an end-to-end test looks at the host: all of it, but judged is only what carries the marks of the
// systems that were started with them (Options.Marks), as other programs mount and start what they please.
func Ledger(marks *leakcheck.Marks) leakcheck.Options {
	return leakcheck.Options{Patience: 30 * time.Second, Marks: marks}
}
