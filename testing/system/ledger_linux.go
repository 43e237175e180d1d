package system

import (
	"strings"
	"time"

	"github.com/airlock-ci/airlock/testing/ledger"
)

// Ledger is how an end-to-end test looks at the host: all of it, but of the cgroups only Airlock's, as other
// programs make theirs as they please.
func Ledger() ledger.Options {
	return ledger.Options{
		Patience: 30 * time.Second,
		Ignore: func(d ledger.Diff) bool {
			return d.Kind == ledger.Cgroup && !strings.Contains(d.Thing, "airlock")
		},
	}
}
