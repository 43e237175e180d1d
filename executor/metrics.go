package executor

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/airlock-ci/airlock/api"
)

// metrics are the executor's figures, which the supervisor serves. A new one is registered here, and documented.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec   // by verb and result
	duration *prometheus.HistogramVec // by verb, in seconds
}

func newMetrics(backend Backend) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "airlock_calls_total",
			Help: "Calls of drivers and commands by verb and result: ok, author, admin, system, or gone.",
		}, []string{"verb", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "airlock_call_duration_seconds", Help: "How long calls took.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 10), // 5 ms to 22 min
		}, []string{"verb"}),
	}
	m.registry.MustRegister(m.calls, m.duration, newCacheUse(backend.Images), &decisions{
		ask: backend.Decisions, description: prometheus.NewDesc("airlock_policy_decisions_total",
			"Decisions of the policy by rule and isolation: process, hypervisor, or rejected.", []string{"rule", "isolation"}, nil),
	})
	return m
}

// text returns the figures in Prometheus' text format.
func (m *metrics) text() ([]byte, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

// counted are the calls that run something.
var counted = []api.Op{api.OpPrepare, api.OpRun, api.OpCleanup, api.OpSandbox, api.OpShell, api.OpPull, api.OpImport}

// observe counts one call. Questions are not counted; what is no call of ours counts as one, whatever its name.
func (m *metrics) observe(op api.Op, err error, result string, took time.Duration) {
	verb := string(op)
	var unknown unknownCall
	switch {
	case slices.Contains(counted, op):
	case errors.As(err, &unknown):
		verb = "unknown"
	default:
		return
	}
	m.calls.WithLabelValues(verb, result).Inc()
	m.duration.WithLabelValues(verb).Observe(took.Seconds())
}

// decisions is a prometheus.Collector of the policy's counts.
type decisions struct {
	ask         func() []*api.DecisionCount
	description *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (d *decisions) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- d.description }

// Collect implements prometheus.Collector.
func (d *decisions) Collect(found chan<- prometheus.Metric) {
	for _, c := range d.ask() {
		found <- prometheus.MustNewConstMetric(d.description, prometheus.CounterValue, float64(c.Count), c.Rule, c.Isolation)
	}
}

// collectTimeout is how long a scrape waits for the cache.
const collectTimeout = 2 * time.Second

func collectContext() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), collectTimeout, errors.New("a scrape does not wait longer"))
}
