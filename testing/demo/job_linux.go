package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

const project = "demo/project"

// kernelLine makes a job tell its kernel: the host's in a container, its own in a virtual machine.
const kernelLine = "echo the kernel here is $(uname -r)"

// untrusted is the same author's job on another branch: nobody vouches for it. What it claims to be does not help.
func (s *stage) untrusted() gitlabtest.Job {
	protected := false
	return s.repository.Build(gitlabtest.Job{
		ProjectPath: project, Protected: &protected, Image: s.image,
		Variables: []gitlabtest.Variable{{Key: "CI_COMMIT_REF_PROTECTED", Value: "true"}},
		Script: []string{
			"cat greeting.txt", kernelLine,
			"echo I am $(id -un) on $(hostname), with $(nproc) CPU and $(free -m | awk '/Mem:/ {print $2}') MiB",
			"mkdir -p out",
			"echo built by job $CI_JOB_ID > out/result.txt",
			"sleep 4",
		},
		Artifacts: []gitlabtest.Artifact{{Name: "result", Paths: []string{"out/"}}},
	})
}

// job is the job of the demonstration. It sleeps so that there is time to look at its sandbox.
func (s *stage) job() gitlabtest.Job {
	protected := true // else it would share no cache with the second one
	return s.repository.Build(gitlabtest.Job{
		ProjectPath: project, Protected: &protected, Image: s.image,
		Script: []string{
			"cat greeting.txt", kernelLine,
			"cat kept/note 2>/dev/null || echo the cache is empty",
			"echo I am $(id -un) on $(hostname)",
			"mkdir -p out kept",
			"echo built by job $CI_JOB_ID > out/result.txt",
			"echo a note of job $CI_JOB_ID > kept/note",
			"sleep 4",
		},
		AfterScript: []string{"ls -l out"},
		Artifacts:   []gitlabtest.Artifact{{Name: "result", Paths: []string{"out/"}}},
		Cache:       []gitlabtest.Cache{{Key: "notes", Paths: []string{"kept/"}}},
	})
}

// yaml writes the job as its author would have, in .gitlab-ci.yml.
func yaml(job gitlabtest.Job) string {
	var b strings.Builder
	fmt.Fprintf(&b, "build:\n  image: %s\n", job.Image)
	for _, v := range job.Variables {
		fmt.Fprintf(&b, "  variables: {%s: %q}\n", v.Key, v.Value)
	}
	for _, block := range []struct {
		key   string
		lines []string
	}{{"script", job.Script}, {"after_script", job.AfterScript}} {
		if len(block.lines) == 0 {
			continue
		}
		fmt.Fprintf(&b, "  %s:\n    - %s\n", block.key, strings.Join(block.lines, "\n    - "))
	}
	for _, a := range job.Artifacts {
		fmt.Fprintf(&b, "  artifacts: {name: %s, paths: [%s]}\n", a.Name, strings.Join(a.Paths, ", "))
	}
	for _, c := range job.Cache {
		fmt.Fprintf(&b, "  cache: {key: %s, paths: [%s]}\n", c.Key, strings.Join(c.Paths, ", "))
	}
	return b.String()
}

// runWatched runs a job and looks at its sandbox, as an administrator does, while its script runs: also from a shell
// beside it.
func (s *stage) runWatched(ctx context.Context, job gitlabtest.Job, p *page, beside ...string) (gitlabtest.JobRecord, error) {
	id := s.gitlab.Add(job)
	if err := s.waitForScript(ctx, id); err != nil {
		return s.gitlab.Job(id), err
	}
	number := strconv.FormatInt(id, 10)
	p.say("The administrator sees, in this moment:")
	for _, args := range [][]string{
		{"ps"},
		{"inspect", number},
		append([]string{"shell", number, "--"}, beside...),
	} {
		out, err := s.airlock.Airlock(args...).CombinedOutput()
		if err != nil {
			return s.gitlab.Job(id), fmt.Errorf("airlock %s: %w: %s", strings.Join(args, " "), err, out)
		}
		p.printed("$ airlock "+strings.Join(args, " "), string(out))
	}
	return s.finish(ctx, id)
}

// waitForScript returns once the script of a job runs in its sandbox.
func (s *stage) waitForScript(ctx context.Context, id int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, jobTimeout, fmt.Errorf("its script did not start within %s", jobTimeout))
	defer cancel()
	for {
		var living []struct {
			JobID int64 `json:"job_id"`
			Stage string
		}
		out, err := s.airlock.Airlock("ps", "--json").Output()
		if err == nil {
			err = json.Unmarshal(out, &living)
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("airlock ps: %w", err)
		}
		for _, sandbox := range living {
			if sandbox.JobID == id && sandbox.Stage == "build_script" {
				return nil
			}
		}
		if record := s.gitlab.Job(id); record.Done() {
			_, err := s.finish(ctx, id)
			return errors.Join(errors.New("the job ended before its script was seen"), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("job %d: %w", id, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// showArtifact prints what is in the artifact that GitLab got.
func showArtifact(record gitlabtest.JobRecord, p *page) error {
	if len(record.Artifacts) != 1 {
		return fmt.Errorf("GitLab got %d artifacts, not one", len(record.Artifacts))
	}
	for name, content := range record.Artifacts {
		archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return fmt.Errorf("the artifact %s: %w", name, err)
		}
		p.say("%s, %d bytes, with:", name, len(content))
		for _, entry := range archive.File {
			text, err := entryText(entry)
			if err != nil {
				return fmt.Errorf("%s in the artifact %s: %w", entry.Name, name, err)
			}
			p.quote(strings.TrimRight(entry.Name+"  "+text, " "))
		}
	}
	return nil
}

func entryText(entry *zip.File) (string, error) {
	file, err := entry.Open()
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(file)
	return strings.TrimSpace(string(text)), err
}
