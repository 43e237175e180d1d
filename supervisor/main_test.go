//go:build linux

package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/supervisor/service"
)

// The test binary plays every process of the boundary: the executor when go-plugin's cookie is set, a supervisor, a
// plain or the real driver when testRole says so, else the tests.
const testRole = "AIRLOCK_TEST_ROLE"

func TestMain(m *testing.M) {
	cookie := control.Handshake()
	switch {
	case os.Getenv(cookie.MagicCookieKey) == cookie.MagicCookieValue:
		exit(executorMain())
	case os.Getenv(testRole) == "supervisor":
		exit(supervisorMain())
	case os.Getenv(testRole) == "driver":
		exit(driverMain())
	case os.Getenv(testRole) == "airlock-driver":
		os.Exit(realDriverMain())
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// settings are the Options that a test sets, as they travel to its supervisor's process.
type settings struct {
	ConfigPath, ExecutorPath, Checksum, RunDir, Group, MetricsAddress, Version string
	StopExecutor                                                               bool
	Sockets                                                                    []Socket
}

// testAnswerTimeout is how long a test's supervisor waits for an executor's first answer.
const testAnswerTimeout = 2 * time.Second

// supervisorMain is `airlock serve` without its command line: settings as JSON in the first argument.
func supervisorMain() error {
	var set settings
	if err := json.Unmarshal([]byte(os.Args[1]), &set); err != nil {
		return err
	}
	opts := Options{
		ConfigPath: set.ConfigPath, ExecutorPath: set.ExecutorPath, Checksum: set.Checksum, RunDir: set.RunDir,
		Group: set.Group, MetricsAddress: set.MetricsAddress, Version: set.Version, StopExecutor: set.StopExecutor,
		Sockets: set.Sockets, Stored: service.StoredSockets(), Store: service.StoreSockets, answerWithin: testAnswerTimeout,
	}
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	opts.Reload = hangUps
	opts.Logger = zerolog.New(os.Stderr).With().Timestamp().Logger()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return Run(ctx, opts)
}
