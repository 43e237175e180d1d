// Command airlock-executor is the go-plugin executor: the long-lived process that owns every sandbox of this
// host. `airlock serve` starts it; it is no command for people. This package is the only place where the
// concrete parts meet: configuration, cache, network, runtimes, journal, reaper.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/executor"
	"github.com/airlock-ci/airlock/internal/inherited"
	"github.com/airlock-ci/airlock/internal/mountns"
)

// version is set by the linker.
var version = "development"

const (
	keptEvents     = 5000
	keptEventBytes = 8 << 20
	closeTimeout   = 3 * time.Minute
	// importCommand is the first argument of the process that imports a layer.
	importCommand = "import-layer"
)

func main() {
	stderr := os.Stderr     //nolint:forbidigo // the one that the supervisor reads, before go-plugin puts its own in its place
	err := inherited.Seal() // nothing that we start shall have what our parent left open
	switch {
	case err != nil:
	case len(os.Args) > 1 && os.Args[1] == "probe":
		err = probe(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == importCommand:
		err = importLayer(os.Args[2:])
	default:
		err = run(os.Args[1:], stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "airlock-executor: %v\n", err)
		os.Exit(1)
	}
}

// run is the executor's life: alone on its state, recover what a predecessor left, serve, end every job. The
// events are copied to stderr.
func run(arguments []string, stderr io.Writer) error {
	args, err := control.ParseArgs(arguments)
	if err != nil {
		return err
	}
	// First of all: it executes the program again, in the new namespace.
	if err := mountns.Enter(); err != nil {
		return err
	}
	cfg, err := config.Load(args.Config)
	if err != nil {
		return err
	}
	lock, err := control.Begin(args)
	if err != nil {
		return err
	}
	defer lock.Release()

	events := executor.NewEventLog(keptEvents, keptEventBytes, stderr)
	defer events.Close()
	logger, err := newLogger(cfg, events)
	if err != nil {
		return err
	}
	settings, err := settings(cfg)
	if err != nil {
		logger.Error().Err(err).Msg("the executor cannot start")
		return err
	}
	parts, err := assemble(cfg, logger)
	if err != nil {
		logger.Error().Err(err).Msg("the executor cannot start")
		return err
	}
	instance := rand.Text()
	service, err := parts.service(settings, logger, instance)
	if err != nil {
		logger.Error().Err(err).Msg("the executor cannot start")
		return errors.Join(err, parts.close(context.Background()))
	}
	logPolicy(logger, cfg)
	backend := &backend{
		Service: service, parts: parts, events: events, configPath: args.Config, log: logger,
		version: api.Version{Protocol: api.ProtocolVersion, Version: version, Instance: instance, ConfigPath: args.Config},
	}
	backend.setLevels(cfg)
	backend.setClasses(cfg)
	if backend.reaper, err = parts.reaper(service, logger); err != nil {
		return err
	}

	// The first job should not pay for the bridge, and an administrator should hear of a network that cannot
	// work before a job does. Each job's attachment tries again.
	if err := parts.networks.Prepare(context.Background()); err != nil {
		logger.Error().Err(err).Msg("the network of the sandboxes cannot be made yet")
	}

	// What a predecessor left goes before anything new is made; then every minute.
	background, stop := context.WithCancelCause(context.Background())
	var atWork sync.WaitGroup
	atWork.Go(func() {
		go backend.reaper.Run(background, cfg.ReapInterval)
		service.SweepOrphans(background)
	})
	backend.prepare = func(cfg *config.Config) {
		if background.Err() == nil {
			atWork.Go(func() { parts.warm(background, cfg, logger) })
		}
	}
	backend.prepare(cfg)
	serveErr := executor.Serve(background, executor.Options{Backend: backend, Logger: logger, TLSDir: args.TLSDir})
	stop(errors.New("the executor is stopping"))
	atWork.Wait()

	ctx, cancel := context.WithTimeoutCause(context.Background(), closeTimeout, errors.New("the jobs did not end in time"))
	defer cancel()
	if err := service.Close(ctx); err != nil {
		logger.Error().Err(err).Msg("a job left something for the reaper")
	}
	if err := parts.close(ctx); err != nil {
		logger.Error().Err(err).Msg("not everything was given back")
	}
	return serveErr
}

// newLogger writes JSON lines with a time to the event log, at the configured level.
func newLogger(cfg *config.Config, events *executor.EventLog) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(cfg.LogLevel)
	if err != nil {
		return zerolog.Logger{}, fmt.Errorf("log_level: %w", err)
	}
	return zerolog.New(events).Level(level).With().Timestamp().Logger(), nil
}
