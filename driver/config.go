package driver

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// shell returns the kind of scripts that the runner is asked to write.
func (d *Driver) shell() (string, error) {
	if d.Shell == "" {
		return DefaultShell, nil
	}
	if !slices.Contains(shells, d.Shell) {
		return "", fault.Adminf("there is no shell %q here: use --shell %s", d.Shell, strings.Join(shells, ", "))
	}
	return d.Shell, nil
}

// config answers config_exec: where the job will run, and the handle by which the later calls name it. It
// needs no executor, so a runner whose service is down learns of it in prepare, which is retried: see outage.
func (d *Driver) config() error {
	shell, err := d.shell()
	if err != nil {
		return err
	}
	response, err := d.readJobResponse()
	if err != nil {
		return err
	}
	job, err := gitlab.ParseJobResponse(response)
	if err != nil {
		return err
	}
	reply, err := json.Marshal(gitlab.ConfigReply(gitlab.Settings{
		Version:   d.Version,
		BuildsDir: isolation.BuildsDir,
		CacheDir:  isolation.CacheDir,
		Shell:     shell,
		Handle:    gitlab.NewHandle(job.ID),
	}))
	if err != nil {
		return fmt.Errorf("writing the reply: %w", err)
	}
	if err := failpoint.Hit("driver/config"); err != nil {
		return err
	}
	if _, err := d.Stdout.Write(append(reply, '\n')); err != nil {
		return fmt.Errorf("writing the reply: %w", err)
	}
	return nil
}

// readJobResponse reads the file in which the runner passes GitLab's answer.
func (d *Driver) readJobResponse() ([]byte, error) {
	if err := d.Env.CheckJobResponseFile(); err != nil {
		return nil, err
	}
	file, err := os.Open(d.Env.JobResponseFile)
	if err != nil {
		return nil, fault.Systemf("reading the job response: %w", err)
	}
	defer func() { _ = file.Close() }()
	response, err := io.ReadAll(io.LimitReader(file, gitlab.MaxJobResponse+1))
	if err != nil {
		return nil, fault.Systemf("reading the job response: %w", err)
	}
	if len(response) > gitlab.MaxJobResponse {
		return nil, fault.Adminf("the job response %s is larger than %d bytes", d.Env.JobResponseFile, gitlab.MaxJobResponse)
	}
	return response, nil
}
