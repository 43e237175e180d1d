package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/internal/fault"
)

// metrics are the supervisor's own figures, in a registry of their own. Beside them the executor's are served.
type metrics struct {
	registry *prometheus.Registry
	up       prometheus.Gauge
	restarts prometheus.Counter
	executor executorFigures
}

func newMetrics(version string, executor executorFigures) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		executor: executor,
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "airlock_executor_up", Help: "1 while the service is connected to an executor that answers.",
		}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "airlock_executor_restarts_total", Help: "Executors that ended while the service went on.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "airlock_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.up, m.restarts, info)
	return m
}

// scrapeTimeout is how long a scrape waits for the executor.
const scrapeTimeout = 5 * time.Second

// executorFigures asks the executor for its figures, in Prometheus' text format. It is a prometheus.Gatherer; an executor
// that is not there has none.
type executorFigures func(context.Context) []byte

// Gather implements prometheus.Gatherer.
func (ask executorFigures) Gather() ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), scrapeTimeout, errNoAnswer)
	defer cancel()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(ask(ctx)))
	if err != nil {
		return nil, fmt.Errorf("reading the executor's figures: %w", err)
	}
	return slices.SortedFunc(maps.Values(families), func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) }), nil
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
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.Gatherers{m.registry, m.executor}, promhttp.HandlerOpts{}))
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
