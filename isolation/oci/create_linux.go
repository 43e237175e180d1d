package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

const (
	// scratchLink in a bundle points to the scratch, so that the mounts there are found by id alone.
	scratchLink = "scratch"
	// runtimeLog in a bundle is the OCI runtime's log: its standard streams become the container's, so they
	// are closed.
	runtimeLog = "runtime.log"
	// launchTimeout bounds the OCI runtime's one call; milliseconds are usual.
	launchTimeout = time.Minute
)

// Create makes a sandbox: its roots, its bundle, the container, and waits until the agent answers.
func (r *Runtime) Create(ctx context.Context, spec isolation.Spec) (made isolation.Sandbox, err error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	defer r.locks.Lock(spec.ID)()
	expected := make(chan struct{})
	go func() { defer close(expected); r.cgroups.ExpectMove() }()
	defer func() { <-expected }()
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	bundle, err := r.claim(spec)
	if err != nil {
		return nil, fault.Systemf("making sandbox %s: %w", spec.ID, err)
	}
	undo.PushContext(func(ctx context.Context) error { return r.remove(ctx, spec.ID) })
	client, err := r.build(ctx, bundle, spec)
	if err != nil {
		return nil, fmt.Errorf("making sandbox %s: %w", spec.ID, r.explain(spec, err))
	}
	undo.Release()
	return newSandbox(r, spec, client), nil
}

// checkSpec refuses what would end somewhere else than meant.
func checkSpec(spec isolation.Spec) error {
	switch {
	case !isolation.ValidID(spec.ID):
		return fault.Systemf("making a sandbox: %q is no sandbox id", spec.ID)
	case !filepath.IsAbs(spec.ScratchDir):
		return fault.Systemf("making sandbox %s: the scratch directory %q is not an absolute path", spec.ID, spec.ScratchDir)
	case len(spec.Image.Layers) == 0:
		return fault.Authorf("the image has no layers, so there is nothing in it to run")
	}
	return nil
}

// claim makes the bundle directory, which belongs to one sandbox from then on.
func (r *Runtime) claim(spec isolation.Spec) (bundle string, err error) {
	bundle = filepath.Join(r.bundleDir, spec.ID)
	if err := os.Mkdir(bundle, 0o700); errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("there is a sandbox of that id already: %w", err)
	} else if err != nil {
		return "", err
	}
	if err := os.Symlink(spec.ScratchDir, filepath.Join(bundle, scratchLink)); err != nil {
		return "", errors.Join(err, os.Remove(bundle))
	}
	return bundle, nil
}

// build does the work of Create; its caller removes what it leaves when it fails.
func (r *Runtime) build(ctx context.Context, bundle string, spec isolation.Spec) (*agent.Client, error) {
	if err := r.mountRoots(spec); err != nil {
		return nil, err
	}
	if err := failpoint.Hit("sandbox/mounted"); err != nil {
		return nil, err
	}
	document, err := json.Marshal(r.ociSpec(spec))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), document, 0o600); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	conn, err := r.launch(ctx, bundle, spec)
	if err != nil {
		return nil, err
	}
	if err := failpoint.Hit("sandbox/launched"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return agent.Connect(ctx, conn, agent.SetupOf(spec)) // it closes conn when it fails
}

// launch runs the OCI runtime once. What it starts inherits one end of the returned connection, as descriptor 3 or its
// standard input, /dev/null for the other standard streams, and nothing else of this process. A caller who gives up does not interrupt it: half a
// container is harder to remove than a whole one, and it takes milliseconds.
func (r *Runtime) launch(ctx context.Context, bundle string, spec isolation.Spec) (conn io.ReadWriteCloser, err error) {
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	ours, theirs, err := agent.SocketPair()
	if err != nil {
		return nil, err
	}
	undo.Push(ours.Close)
	defer func() { _ = theirs.Close() }()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), launchTimeout,
		fmt.Errorf("%s took longer than %s", r.program.name, launchTimeout))
	defer cancel()
	log := filepath.Join(bundle, runtimeLog)
	if err := r.program.run(ctx, r.stateDir, bundle, log, spec, theirs); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, r.program.explain(fmt.Errorf("%w: %s", err, readRuntimeLog(log)))
	}
	r.filter.keep(filepath.Join(r.stateDir, spec.ID))
	undo.Release()
	return ours, nil
}

// readRuntimeLog returns the messages of an OCI runtime's JSON log, joined; what is no JSON stays as it is.
func readRuntimeLog(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return "no log: " + err.Error()
	}
	var messages [][]byte
	for line := range bytes.Lines(content) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil {
			if entry.Level == "warning" || entry.Level == "debug" || entry.Level == "info" {
				continue
			}
			line = []byte(entry.Msg)
		}
		messages = append(messages, bytes.TrimSpace(line))
	}
	return string(bytes.Join(messages, []byte("; ")))
}

// explain adds to an error of Create what the sandbox's cgroup knows about it: a limit that the agent itself does
// not fit in is the administrator's to raise.
func (r *Runtime) explain(spec isolation.Spec, err error) error {
	if kills, failed := r.cgroups.OOMKills(spec.ID); failed != nil || kills == 0 {
		return err
	}
	return fault.WithRemedy(fault.Adminf("%w: %w", memoryLimitError(spec.Limits.Memory), err), "raise the memory limit")
}

func memoryLimitError(limit int64) error {
	return fmt.Errorf("the memory limit of %d bytes ended it", limit)
}
