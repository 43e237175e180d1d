//go:build unix

// Command shim stands between a real gitlab-runner 12.8 and a driver, and adds what runners before 14.1, 13.6
// and 17.9 lack: JOB_RESPONSE_FILE, job_env and BUILD_EXIT_CODE_FILE. It belongs to the tests; no product
// needs it. In config.toml:
//
//	config_exec = "shim"
//	config_args = ["http://coordinator", "driver", "config"]   # prepare, run and cleanup alike
//
// In config it fetches the job response from the Coordinator, by a ticket that is the job's last variable,
// stores it in the runner's temporary directory, runs the driver, and keeps job_env there. In every other
// call it becomes the driver (exec), so that signals reach the driver as they would without it. The status of
// a stage is reported by the next call, the runner being the only one who knows when a stage has ended.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/airlock-ci/airlock/executor/gitlab"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

// Files in the runner's temporary directory, which is the working directory of every call of one job.
const (
	responseFile = "response.json"
	exitCodeFile = "build_exit_code"
	jobEnvFile   = ".shim-job-env"
	stageFile    = ".shim-stage"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "shim:", err)
		code = 2
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	if len(args) < 3 {
		return 0, errors.New("usage: shim COORDINATOR DRIVER CALL [ARGUMENT...]")
	}
	coordinator, driver, call := args[0], args[1:], args[2]
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	ticket := os.Getenv("CUSTOM_ENV_" + gitlabtest.TicketVariable)
	requests := coordinator + gitlabtest.ShimPath + ticket
	_ = os.Unsetenv("CUSTOM_ENV_" + gitlabtest.TicketVariable)
	_ = os.Setenv(gitlab.JobResponseFileVariable, filepath.Join(dir, responseFile))
	_ = os.Setenv(gitlab.ExitCodeFileVariable, filepath.Join(dir, exitCodeFile))
	if call == "config" {
		if err := fetchResponse(requests + "/response"); err != nil {
			return 0, err
		}
		return config(driver)
	}
	if err := reportExitCode(requests + "/exit-code"); err != nil {
		return 0, err
	}
	if call == "run" {
		if err := os.WriteFile(stageFile, []byte(args[len(args)-1]), 0o600); err != nil {
			return 0, err
		}
	}
	if err := loadJobEnv(); err != nil {
		return 0, err
	}
	path, err := exec.LookPath(driver[0])
	if err != nil {
		return 0, err
	}
	return 0, syscall.Exec(path, driver, os.Environ())
}

func fetchResponse(url string) error {
	reply, err := http.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = reply.Body.Close() }()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for the job response: %s", reply.Status)
	}
	content, err := io.ReadAll(reply.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(responseFile, content, 0o600)
}

// config runs the driver's config and keeps its job_env.
func config(driver []string) (int, error) {
	var reply bytes.Buffer
	cmd := exec.Command(driver[0], driver[1:]...)
	cmd.Stdout, cmd.Stderr = &reply, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, err
	}
	var config gitlab.Reply
	if err := json.Unmarshal(reply.Bytes(), &config); err != nil {
		return 0, fmt.Errorf("config's reply: %w", err)
	}
	if config.JobEnv != nil {
		env, err := json.Marshal(config.JobEnv)
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(jobEnvFile, env, 0o600); err != nil {
			return 0, err
		}
	}
	_, err = os.Stdout.Write(reply.Bytes())
	return 0, err
}

func loadJobEnv() error {
	content, err := os.ReadFile(jobEnvFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	env := map[string]string{}
	if err := json.Unmarshal(content, &env); err != nil {
		return err
	}
	for key, value := range env {
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	return nil
}

// reportExitCode reports the status that the stage before this call left, if it failed.
func reportExitCode(url string) error {
	content, err := os.ReadFile(exitCodeFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return err
	}
	stage, err := os.ReadFile(stageFile)
	if err != nil {
		return err
	}
	body, err := json.Marshal(gitlabtest.ShimExitCode{Stage: string(stage), ExitCode: code})
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return reply.Body.Close()
}
