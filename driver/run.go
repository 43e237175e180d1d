package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// scriptFailure says that a stage's script ran to its end with a status other than 0.
type scriptFailure struct{ status int }

func (f *scriptFailure) Error() string { return fmt.Sprintf("exit status %d", f.status) }

// run has the executor execute one stage's script in the job's sandbox. It returns a scriptFailure when the
// script ended with another status than 0.
func (d *Driver) run(ctx context.Context, scriptFile, stage string) error {
	handle, err := d.handle()
	if err != nil {
		return err
	}
	script, err := os.ReadFile(scriptFile)
	if err != nil {
		return fault.Systemf("reading the script of stage %s: %w", stage, err)
	}
	shell, err := d.shell()
	if err != nil {
		return err
	}
	status, err := d.call(ctx, api.OpRun, api.Run{Handle: string(handle), Stage: stage, RunnerPID: d.Parent, Shell: shell}, script)
	if err == nil && status != 0 {
		err = &scriptFailure{status: status}
	}
	return err
}

// removeExitCode removes what an earlier call of the same job left: the runner reads the file whenever a call
// ends with a build failure.
func (d *Driver) removeExitCode() error {
	if d.Env.ExitCodeFile == "" {
		return nil
	}
	err := os.Remove(d.Env.ExitCodeFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Systemf("removing the last stage's status: %w", err)
	}
	return nil
}

// writeExitCode tells the runner a script's status. A script's own status must never become the driver's:
// "exit 2" would pass for a system failure. Runners before 17.9 have no file and show 1.
func (d *Driver) writeExitCode(status int) error {
	if d.Env.ExitCodeFile == "" {
		return nil
	}
	partial := filepath.Join(filepath.Dir(d.Env.ExitCodeFile), "."+filepath.Base(d.Env.ExitCodeFile)+".partial")
	err := os.WriteFile(partial, fmt.Appendf(nil, "%d\n", status), 0o600)
	if err == nil {
		err = os.Rename(partial, d.Env.ExitCodeFile)
	}
	if err != nil {
		return fault.Systemf("telling the runner the script's status %d: %w", status, err)
	}
	return nil
}
