package gitlabtest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Repository is a git repository that a Coordinator serves.
type Repository struct {
	// URL is its address; SHA is its only commit, the tip of branch Ref.
	URL, SHA, Ref string
}

// AddRepository makes a repository at projectPath ("group/project") with one commit of the given files, by
// name, and serves it.
func (c *Coordinator) AddRepository(ctx context.Context, projectPath string, files map[string]string) (Repository, error) {
	work, err := os.MkdirTemp("", "gitlabtest-worktree-")
	if err != nil {
		return Repository{}, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	for name, content := range files {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return Repository{}, err
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			return Repository{}, err
		}
	}
	bare := filepath.Join(c.repos, projectPath+".git")
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "--all"},
		{"commit", "--quiet", "--allow-empty", "--message=a commit"},
		{"clone", "--quiet", "--bare", ".", bare},
		{"--git-dir", bare, "config", "uploadpack.allowAnySHA1InWant", "true"},
	} {
		if _, err := git(ctx, work, args...); err != nil {
			return Repository{}, err
		}
	}
	sha, err := git(ctx, work, "rev-parse", "HEAD")
	return Repository{URL: c.URL + "/" + projectPath + ".git", SHA: strings.TrimSpace(sha), Ref: "main"}, err
}

// Build returns the job with its fields set to build this repository.
func (r Repository) Build(job Job) Job {
	job.RepositoryURL, job.SHA, job.Ref = r.URL, r.SHA, r.Ref
	return job
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "user.name=A B", "-c", "user.email=a@b.c"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// repositories serves git's smart HTTP protocol through git's own CGI program.
func (c *Coordinator) repositories() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		dir, err := git(req.Context(), c.repos, "--exec-path")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		backend := &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(dir), "git-http-backend"),
			Env:  []string{"GIT_PROJECT_ROOT=" + c.repos, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"},
		}
		backend.ServeHTTP(w, req)
	})
}
