package gitlabtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Coordinator is a small GitLab: it hands jobs to runners, takes their logs, states and artifacts, tells them of cancels,
// and serves git repositories with their large files (LFS) over HTTP. It believes every runner.
type Coordinator struct {
	// URL is its address, without a slash at the end.
	URL string

	server *http.Server
	repos  string // directory of bare repositories

	mu      sync.Mutex
	changed *sync.Cond
	queue   []*record
	jobs    map[int64]*record
	large   map[string]string // large files by their SHA-256
	lastID  int64
}

// JobRecord is what a Coordinator knows about a job.
type JobRecord struct {
	ID int64
	// State is "pending", "running", "success" or "failed"; FailureReason is GitLab's name for why.
	State, FailureReason string
	// ExitCode is the script's status, if the runner told it.
	ExitCode *int
	// Trace is the job's log as GitLab shows it: without the time stamps that runners since 18 put before each line.
	Trace string
	// Artifacts are the uploaded files by name.
	Artifacts map[string][]byte
}

// Done reports whether the job has ended.
func (r JobRecord) Done() bool { return r.State == "success" || r.State == "failed" }

type record struct {
	JobRecord
	job   Job
	trace bytes.Buffer
	// status is what the runner hears of the job's state at GitLab: "running", "canceling" or "canceled".
	status string
}

// StartCoordinator starts a coordinator that listens on address, a "host:port"; empty means a free port of
// 127.0.0.1.
func StartCoordinator(address string) (*Coordinator, error) {
	listener, err := net.Listen("tcp", or(address, "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	repos, err := os.MkdirTemp("", "gitlabtest-repositories-")
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	c := &Coordinator{URL: "http://" + listener.Addr().String(), repos: repos, jobs: map[int64]*record{}, large: map[string]string{}}
	c.changed = sync.NewCond(&c.mu)
	c.server = &http.Server{Handler: c.routes()}
	go func() { _ = c.server.Serve(listener) }() // ends with Close
	return c, nil
}

// Close ends the coordinator with all that it kept.
func (c *Coordinator) Close() error {
	err := c.server.Close()
	if rmErr := os.RemoveAll(c.repos); err == nil {
		err = rmErr
	}
	return err
}

// Add queues a job and returns its id, which is a fresh one when the job has none.
func (c *Coordinator) Add(job Job) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.register(job)
	c.queue = append(c.queue, r)
	return r.ID
}

// Adopt returns the job as this coordinator would hand it out, for a Caller to run: it then takes the job's
// artifacts, but learns nothing of its state.
func (c *Coordinator) Adopt(job Job) Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.register(job).job
}

func (c *Coordinator) register(job Job) *record {
	if job.ID == 0 {
		job.ID = c.lastID + 1
	}
	c.lastID = max(c.lastID, job.ID)
	job.ServerURL = c.URL
	r := &record{job: job.filled(), status: "running"}
	r.ID, r.State, r.Artifacts = job.ID, "pending", map[string][]byte{}
	c.jobs[job.ID] = r
	return r
}

// Cancel is the button in GitLab: the runner learns of it with its next report, ends the author's script, and runs
// after_script and what follows.
func (c *Coordinator) Cancel(id int64) { c.setStatus(id, "canceling") }

// ForceCancel is the button for a job that is being cancelled already: the runner ends all of it.
func (c *Coordinator) ForceCancel(id int64) { c.setStatus(id, "canceled") }

func (c *Coordinator) setStatus(id int64, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.jobs[id]; r != nil {
		r.status = status
	}
}

// Job returns what is known about a job now; the zero record if it is unknown.
func (c *Coordinator) Job(id int64) JobRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jobs[id].snapshot()
}

// Wait returns a job's record once it has ended, or ctx's error with the record as it is then.
func (c *Coordinator) Wait(ctx context.Context, id int64) (JobRecord, error) {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		r := c.jobs[id]
		if r != nil && r.Done() {
			return r.snapshot(), nil
		}
		if ctx.Err() != nil {
			s := r.snapshot()
			return s, fmt.Errorf("job %d is %s: %w", id, s.State, context.Cause(ctx))
		}
		c.changed.Wait()
	}
}

func (r *record) snapshot() JobRecord {
	if r == nil {
		return JobRecord{}
	}
	s := r.JobRecord
	s.Trace = withoutStamps(r.trace.String())
	s.Artifacts = map[string][]byte{}
	for name, content := range r.Artifacts {
		s.Artifacts[name] = content
	}
	return s
}

// stamp is what the runner puts before each line: the time, a stream's number, O or E for stdout and stderr, and a plus
// sign if the line continues the last one (common/buildlogger/internal/timestamper of GitLab Runner 19.4).
var stamp = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [0-9a-f]{2}[OE][ +]`)

func withoutStamps(trace string) string {
	var out strings.Builder
	end := 0
	for _, found := range stamp.FindAllStringIndex(trace, -1) {
		before := trace[end:found[0]]
		if end = found[1]; trace[end-1] == '+' {
			before = strings.TrimSuffix(before, "\n")
		}
		out.WriteString(before)
	}
	out.WriteString(trace[end:])
	return out.String()
}

func (c *Coordinator) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v4/runners/verify", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"id": 1, "token": "runner-token"})
	})
	mux.HandleFunc("POST /api/v4/jobs/request", c.requestJob)
	mux.HandleFunc("PATCH /api/v4/jobs/{id}/trace", c.withJob(c.patchTrace))
	mux.HandleFunc("PUT /api/v4/jobs/{id}", c.withJob(c.updateJob))
	mux.HandleFunc("POST /api/v4/jobs/{id}/artifacts", c.withJob(c.uploadArtifacts))
	mux.HandleFunc("GET /api/v4/jobs/{id}/artifacts", c.withJob(c.downloadArtifacts))
	mux.HandleFunc("POST /{group}/{project}/info/lfs/objects/batch", c.largeFiles)
	mux.HandleFunc("GET /-/lfs/{oid}", c.largeFile)
	mux.Handle("/", c.repositories())
	return mux
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // a client that has gone needs no answer
}

// withJob finds the request's job, and tells the runner its state and that it may report every second.
func (c *Coordinator) withJob(handle func(http.ResponseWriter, *http.Request, *record)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		id, _ := strconv.ParseInt(req.PathValue("id"), 10, 64) // 0: unknown
		c.mu.Lock()
		r := c.jobs[id]
		if r != nil {
			w.Header().Set("Job-Status", r.status)
			w.Header().Set("X-GitLab-Trace-Update-Interval", "1")
		}
		c.mu.Unlock()
		if r == nil {
			http.NotFound(w, req)
			return
		}
		handle(w, req, r)
	}
}

// requestJob hands out the oldest pending job.
func (c *Coordinator) requestJob(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	r := c.queue[0]
	c.queue = c.queue[1:]
	r.State = "running"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(r.job.answer())
}

func (c *Coordinator) patchTrace(w http.ResponseWriter, req *http.Request, r *record) {
	content, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	start, _, _ := strings.Cut(req.Header.Get("Content-Range"), "-")
	status := http.StatusAccepted
	if start != strconv.Itoa(r.trace.Len()) {
		status = http.StatusRequestedRangeNotSatisfiable
	} else {
		r.trace.Write(content)
	}
	w.Header().Set("Range", fmt.Sprintf("0-%d", r.trace.Len()))
	w.WriteHeader(status)
	c.changed.Broadcast()
}

func (c *Coordinator) updateJob(w http.ResponseWriter, req *http.Request, r *record) {
	var update struct {
		State         string `json:"state"`
		FailureReason string `json:"failure_reason"`
		ExitCode      *int   `json:"exit_code"`
	}
	if err := json.NewDecoder(req.Body).Decode(&update); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.State, r.FailureReason, r.ExitCode = update.State, update.FailureReason, update.ExitCode
	w.WriteHeader(http.StatusOK)
	c.changed.Broadcast()
}

func (c *Coordinator) uploadArtifacts(w http.ResponseWriter, req *http.Request, r *record) {
	file, header, err := req.FormFile("file")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	content, err := io.ReadAll(file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Artifacts[filepath.Base(header.Filename)] = content
	w.WriteHeader(http.StatusCreated)
}

// downloadArtifacts serves the job's only artifact.
func (c *Coordinator) downloadArtifacts(w http.ResponseWriter, req *http.Request, r *record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, content := range r.Artifacts {
		_, _ = w.Write(content)
		return
	}
	http.NotFound(w, req)
}

// Dependency is what a later job is told of a job whose artifacts it needs.
func (c *Coordinator) Dependency(id int64) Dependency {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.jobs[id]
	if r == nil {
		return Dependency{ID: id}
	}
	d := Dependency{ID: id, Token: r.job.Token, Name: r.job.Name}
	for name := range r.Artifacts {
		d.Filename = name
	}
	return d
}
