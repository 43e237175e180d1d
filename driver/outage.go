package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/gitlab"
)

const (
	// outageMemory is how long after a job's last call in vain its next one does not wait again. The runner makes three
	// attempts at a prepare, 3 s apart, and calls once for each stage that follows a failed one.
	outageMemory = time.Minute
	// maxOutage bounds the note, in bytes: some thousand jobs.
	maxOutage = 64 << 10
)

// outage is the note that jobs have waited in vain for the service: a file in the runner's own temporary directory, a line
// for each job. It spares a job from waiting in each of its calls, and its log from the same message again and again. The
// first call that reaches the service removes it.
type outage struct {
	path  string // empty when the runner's temporary directory is not known
	line  string
	lines []string // of the file, none when it is too old
}

// outage reads the note.
func (d *Driver) outage() outage {
	handle, err := gitlab.ParseHandle(d.Env.Handle)
	// The runner makes a directory for each attempt, with the job response in it, in its temporary one.
	if err != nil || d.Dir == "" || filepath.Dir(d.Env.JobResponseFile) != filepath.Clean(d.Dir) {
		return outage{}
	}
	o := outage{
		path: filepath.Join(filepath.Dir(filepath.Clean(d.Dir)), fmt.Sprintf("airlock-outage-%d", os.Getuid())),
		line: fmt.Sprintf("%d %s", handle.JobID(), d.Socket),
	}
	info, err := os.Lstat(o.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return o
	case err != nil || !info.Mode().IsRegular() || !ownFile(info):
		return outage{} // somebody else's, in a directory that all may write
	case time.Since(info.ModTime()) > outageMemory || info.Size() > maxOutage:
		return o
	}
	if content, err := os.ReadFile(o.path); err == nil {
		o.lines = strings.Split(string(content), "\n")
	}
	return o
}

// waited reports whether this job has waited already.
func (o outage) waited() bool { return slices.Contains(o.lines, o.line) }

// note adds the job, or renews the note. A note that cannot be written spares nobody anything, that is all.
func (o outage) note() {
	if o.path == "" {
		return
	}
	if o.waited() {
		_ = os.Chtimes(o.path, time.Time{}, time.Now())
		return
	}
	flags := os.O_WRONLY | os.O_APPEND
	if o.lines == nil {
		flags |= os.O_CREATE | os.O_EXCL // never what somebody else put there meanwhile
		_ = os.Remove(o.path)            // one of an earlier outage
	}
	file, err := os.OpenFile(o.path, flags, 0o600)
	if err != nil {
		return
	}
	_, _ = file.WriteString(o.line + "\n")
	_ = file.Close()
}

// over removes the note: the service answers.
func (o outage) over() {
	if o.lines != nil {
		_ = os.Remove(o.path)
	}
}
