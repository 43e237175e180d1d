package gitlabtest

import (
	"encoding/json"
	"net/http"
)

// The names that the shim (testing/gitlabtest/shim) and the Coordinator agree on.
const (
	// TicketVariable is the job variable that identifies a job to the shim.
	TicketVariable = "GITLABTEST_TICKET"
	// ShimPath is the path of the shim's own requests; the ticket and "response" or "exit-code" follow.
	ShimPath = "/-/shim/"
)

// ShimExitCode is what the shim reports after a stage: its status, which runner 12.8 does not.
type ShimExitCode struct {
	Stage    string `json:"stage"`
	ExitCode int    `json:"exit_code"`
}

func (c *Coordinator) byTicket(ticket string) *record {
	for _, r := range c.jobs {
		if r.ticket == ticket {
			return r
		}
	}
	return nil
}

// shimResponse serves the job response as runner 19.4 would write it to a file.
func (c *Coordinator) shimResponse(w http.ResponseWriter, req *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.byTicket(req.PathValue("ticket"))
	if r == nil {
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(r.job.response())
}

// shimExitCode records the status of the stage that failed first.
func (c *Coordinator) shimExitCode(w http.ResponseWriter, req *http.Request) {
	var report ShimExitCode
	if err := json.NewDecoder(req.Body).Decode(&report); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.byTicket(req.PathValue("ticket"))
	if r == nil {
		http.NotFound(w, req)
		return
	}
	if r.ExitCode == nil && report.Stage != stageAfter {
		r.ExitCode = &report.ExitCode
	}
	w.WriteHeader(http.StatusOK)
}
