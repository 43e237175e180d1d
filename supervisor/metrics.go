package supervisor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// metrics are the host's own figures, in a registry of their own.
type metrics struct {
	registry *prometheus.Registry
	up       prometheus.Gauge
	restarts prometheus.Counter
	calls    *prometheus.CounterVec   // by verb and result
	duration *prometheus.HistogramVec // by verb, in seconds
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "airlock_executor_up", Help: "1 while the host is connected to an executor.",
		}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "airlock_executor_restarts_total", Help: "Executors that ended while the host went on.",
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "airlock_calls_total",
			Help: "Calls of drivers and commands by verb and result: ok, author, admin, system, or gone.",
		}, []string{"verb", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "airlock_call_duration_seconds", Help: "How long calls took.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 10), // 5 ms to 22 min
		}, []string{"verb"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "airlock_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.up, m.restarts, m.calls, m.duration, info)
	return m
}

// ask makes the metrics that the executor keeps those of counts, which is asked at every scrape. An executor that is
// not there, or too old to know, has none.
func (m *metrics) ask(counts func(context.Context) []*api.DecisionCount) {
	m.registry.MustRegister(&decisions{ask: counts, description: prometheus.NewDesc("airlock_policy_decisions_total",
		"Decisions of the policy by rule and isolation: process, hypervisor, or rejected.", []string{"rule", "isolation"}, nil)})
}

// decisions is a prometheus.Collector of the executor's counts.
type decisions struct {
	ask         func(context.Context) []*api.DecisionCount
	description *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (d *decisions) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- d.description }

// Collect implements prometheus.Collector.
func (d *decisions) Collect(found chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), scrapeTimeout, errNoAnswer)
	defer cancel()
	for _, c := range d.ask(ctx) {
		found <- prometheus.MustNewConstMetric(d.description, prometheus.CounterValue, float64(c.GetCount()), c.GetRule(), c.GetIsolation())
	}
}

// scrapeTimeout is how long a scrape waits for the executor.
const scrapeTimeout = 2 * time.Second

// observe counts one call.
func (m *metrics) observe(verb, result string, took time.Duration) {
	m.calls.WithLabelValues(verb, result).Inc()
	m.duration.WithLabelValues(verb).Observe(took.Seconds())
}

// serve answers /metrics on address until stop; it does nothing without an address.
func (m *metrics) serve(address string, log zerolog.Logger) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("serving metrics on %s: %w", address, err),
			"change listen_address in the configuration")
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error().Err(err).Msg("metrics are no longer served")
		}
	}()
	log.Info().Stringer("address", listener.Addr()).Msg("serving metrics")
	return func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, errStopping)
		defer cancel()
		_ = server.Shutdown(ctx)
	}, nil
}
