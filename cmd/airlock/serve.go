package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/inherited"
	"github.com/airlock-ci/airlock/internal/private"
	"github.com/airlock-ci/airlock/supervisor"
	"github.com/airlock-ci/airlock/supervisor/service"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run the service in the foreground",
		Description: "Starts the executor and listens for drivers and commands. SIGHUP reloads the configuration; SIGTERM and\n" +
			"SIGINT stop the service. An executor with living sandboxes then goes on by itself, and the next\n" +
			"\"airlock serve\" takes it over; --stop-executor-on-exit ends it with all its sandboxes.",
		Flags: []cli.Flag{
			configFlag(),
			&cli.StringFlag{Name: "executor", Usage: "the executor's `BINARY`; default: airlock-executor beside this program, else in PATH"},
			&cli.BoolFlag{Name: "stop-executor-on-exit", Usage: "end the executor and every sandbox when the service stops"},
		},
		Action: serve,
	}
}

// configFlag is the flag of every command that reads the configuration itself.
func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "the configuration `FILE`", Value: config.DefaultPath}
}

func serve(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(ctx, c, 0, 0); err != nil {
		return err
	}
	// What a shell or a supervisor left open is ours alone: no executor, container or virtual machine has it.
	if err := inherited.Seal(); err != nil {
		return fault.Systemf("%w", err)
	}
	// A service of Windows has no stderr: what ends it goes into the event log and, once that is there, into its own.
	var output io.WriteCloser
	tell := func(err error) error {
		if err == nil {
			return nil
		}
		service.Report(err)
		if output != nil && service.LogFile() != "" {
			_, _ = fmt.Fprintf(output, "airlock: %s\n", printable(err.Error()))
		}
		return err
	}
	// Before anything in it is believed: on Windows, anyone may put files there until then.
	if err := private.Seal(filepath.Dir(config.DefaultPath)); err != nil {
		return tell(fault.Adminf("closing Airlock's directory to others: %w", err))
	}
	output, err := logOutput(c.Root().ErrWriter)
	if err != nil {
		return tell(err)
	}
	defer func() { _ = output.Close() }()
	options, err := supervisorOptions(c, output)
	if err != nil {
		return tell(err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return service.Run(ctx, func(ctx context.Context) error { return tell(supervisor.Run(ctx, options)) })
}

// supervisorOptions is what the command line and the configuration ask for.
func supervisorOptions(c *cli.Command, output io.Writer) (supervisor.Options, error) {
	path, cfg, err := loadConfig(c)
	if err != nil {
		return supervisor.Options{}, err
	}
	executor, err := executorPath(c.String("executor"))
	if err != nil {
		return supervisor.Options{}, err
	}
	log, err := serviceLogger(cfg, output)
	if err != nil {
		return supervisor.Options{}, err
	}
	options := supervisor.Options{
		ConfigPath: path, ExecutorPath: executor, RunDir: cfg.RunDir, Group: cfg.Group, Sockets: classSockets(cfg),
		Stored: service.StoredSockets(), Store: service.StoreSockets,
		MetricsAddress: cfg.ListenAddress, StopExecutor: c.Bool("stop-executor-on-exit"),
		Version: version, Logger: log, Reload: hangUps(),
		Ready: func() {
			if err := service.NotifyReady(); err != nil {
				log.Warn().Err(err).Msg("systemd was not told that the service is ready")
			}
		},
	}
	if c.IsSet("socket") {
		options.SocketPath = c.String("socket")
	}
	return options, nil
}

// classSockets are the sockets of runner classes, as the supervisor knows them.
func classSockets(cfg *config.Config) []supervisor.Socket {
	var sockets []supervisor.Socket
	for _, s := range cfg.Sockets {
		sockets = append(sockets, supervisor.Socket(s))
	}
	return sockets
}

// loadConfig loads the configuration that --config names; its path is made absolute for other processes.
func loadConfig(c *cli.Command) (string, *config.Config, error) {
	path, err := filepath.Abs(c.String("config"))
	if err != nil {
		return "", nil, fault.Adminf("--config: %w", err)
	}
	cfg, err := config.Load(path)
	return path, cfg, err
}

// executorPath returns the absolute path of the executor's binary.
func executorPath(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	const name = "airlock-executor"
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name+filepath.Ext(self)) // .exe on Windows
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fault.WithRemedy(fault.Adminf("finding the executor: %w", err), "name its binary with --executor")
	}
	return filepath.Abs(path)
}

// keptLog is how large a log file may become before the next start begins a new one, in bytes.
const keptLog = 64 << 20

// logOutput returns where the service writes its log: stderr, or the file of a service that has none.
func logOutput(stderr io.Writer) (io.WriteCloser, error) {
	path := service.LogFile()
	if path == "" {
		return nopCloser{stderr}, nil
	}
	if err := private.MakeDir(filepath.Dir(path)); err != nil {
		return nil, fault.Adminf("making the log's directory: %w", err)
	}
	if info, err := os.Stat(path); err == nil && info.Size() > keptLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, fault.Systemf("beginning a new log: %w", err)
		}
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fault.Systemf("opening the log: %w", err)
	}
	return file, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// serviceLogger logs as the configuration says, to stderr, which the service manager keeps.
func serviceLogger(cfg *config.Config, stderr io.Writer) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(cfg.LogLevel)
	if err != nil {
		return zerolog.Logger{}, fault.Adminf("log_level: %w", err)
	}
	if cfg.LogFormat == "text" {
		stderr = zerolog.ConsoleWriter{Out: stderr, NoColor: true, TimeFormat: time.RFC3339}
	}
	return zerolog.New(stderr).Level(level).With().Timestamp().Logger(), nil
}
