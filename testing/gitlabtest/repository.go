package gitlabtest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
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

// Submodule is another repository at a path of a repository.
type Submodule struct {
	Path       string
	Repository Repository
}

// AddRepository makes a repository at projectPath ("group/project") with one commit of the given files, by
// name, and of submodules, and serves it.
func (c *Coordinator) AddRepository(ctx context.Context, projectPath string, files map[string]string, submodules ...Submodule) (Repository, error) {
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
	commands := [][]string{{"init", "--quiet", "--initial-branch=main"}, {"add", "--all"}}
	for _, sub := range submodules {
		commands = append(commands,
			[]string{"config", "--file", ".gitmodules", "submodule." + sub.Path + ".path", sub.Path},
			[]string{"config", "--file", ".gitmodules", "submodule." + sub.Path + ".url", sub.Repository.URL},
			[]string{"update-index", "--add", "--cacheinfo", "160000," + sub.Repository.SHA + "," + sub.Path},
			[]string{"add", ".gitmodules"})
	}
	for _, args := range append(commands,
		[]string{"commit", "--quiet", "--allow-empty", "--message=a commit"},
		[]string{"clone", "--quiet", "--bare", ".", bare},
		[]string{"--git-dir", bare, "config", "uploadpack.allowAnySHA1InWant", "true"},
	) {
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

// AddLargeFile keeps a file for Git LFS, and returns the pointer that stands for it in a repository. There, the file's name
// has to have the attribute filter=lfs.
func (c *Coordinator) AddLargeFile(content string) (pointer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	oid := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	c.large[oid] = content
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content))
}

// largeFiles says where files are to be had: Git LFS's batch API, for downloads.
func (c *Coordinator) largeFiles(w http.ResponseWriter, req *http.Request) {
	type link struct {
		Href string `json:"href"`
	}
	type object struct {
		OID     string          `json:"oid"`
		Size    int64           `json:"size"`
		Actions map[string]link `json:"actions,omitempty"`
	}
	var batch struct {
		Transfer string   `json:"transfer"`
		Objects  []object `json:"objects"`
	}
	if err := json.NewDecoder(req.Body).Decode(&batch); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	batch.Transfer = "basic"
	for i := range batch.Objects {
		batch.Objects[i].Actions = map[string]link{"download": {c.URL + "/-/lfs/" + batch.Objects[i].OID}}
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	_ = json.NewEncoder(w).Encode(batch) // a client that has gone needs no answer
}

func (c *Coordinator) largeFile(w http.ResponseWriter, req *http.Request) {
	c.mu.Lock()
	content, known := c.large[req.PathValue("oid")]
	c.mu.Unlock()
	if !known {
		http.NotFound(w, req)
		return
	}
	_, _ = io.WriteString(w, content)
}
