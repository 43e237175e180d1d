package probes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// probeTimeout bounds one probe; the slowest waits for a connection that nobody answers.
const probeTimeout = 5 * time.Second

// Run makes all probes and writes their results to w as lines of JSON. Each runs in a process of its own, started by
// self with the arguments args and the probe's name: some leave their process in another namespace or root.
func Run(ctx context.Context, w io.Writer, self string, args ...string) error {
	encoder := json.NewEncoder(w)
	for _, p := range all {
		if err := encoder.Encode(runOne(ctx, p.name, self, args)); err != nil {
			return err
		}
	}
	return nil
}

// runOne runs a probe's process. A probe that is killed was blocked.
func runOne(ctx context.Context, name, self string, args []string) Result {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errors.New("the probe hung"))
	defer cancel()
	out, err := exec.CommandContext(ctx, self, append(args, name)...).Output()
	var result Result
	if json.Unmarshal(out, &result) == nil && result.Name == name {
		return result
	}
	return Result{Name: name, Blocked: true, Detail: fmt.Sprintf("the probe died: %v", err)}
}

// One makes the named probe in this process.
func One(name string, targets Targets) Result {
	for _, p := range all {
		if p.name != name {
			continue
		}
		reached, err := p.attempt(targets)
		if err != nil {
			return Result{Name: name, Blocked: true, Detail: err.Error()}
		}
		return Result{Name: name, Detail: reached}
	}
	return Result{Name: name, Detail: "there is no such probe"}
}

// Parse reads what Run wrote.
func Parse(r io.Reader) ([]Result, error) {
	var results []Result
	decoder := json.NewDecoder(r)
	for {
		var result Result
		err := decoder.Decode(&result)
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the probes' results: %w", err)
		}
		results = append(results, result)
	}
}

// Count is how many probes there are.
func Count() int { return len(all) }

// probe is one attempt. It returns what it reached, or what stopped it.
type probe struct {
	name    string
	attempt func(Targets) (reached string, err error)
}

// plain is an attempt that needs no targets and reaches only what its name says.
func plain(attempt func() error) func(Targets) (string, error) {
	return func(Targets) (string, error) { return "it works", attempt() }
}

// paths is an attempt on several paths: it succeeds with the first that try succeeds on.
func paths(try func(path string) error, candidates ...string) func(Targets) (string, error) {
	return func(Targets) (string, error) {
		var failed []string
		for _, path := range candidates {
			err := try(path)
			if err == nil {
				return path, nil
			}
			failed = append(failed, err.Error())
		}
		return "", errors.New(strings.Join(failed, "; "))
	}
}

// readable succeeds when there is something to read.
func readable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if n, err := file.Read(make([]byte, 4096)); n == 0 {
		return fmt.Errorf("%s: nothing to read: %w", path, err)
	}
	return nil
}

// listable succeeds when there is something in the directory.
func listable(path string) error {
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return err
}

// writable succeeds when the file can be opened for writing. It writes nothing.
func writable(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

// rewritable succeeds when the file takes its own content.
func rewritable(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}
