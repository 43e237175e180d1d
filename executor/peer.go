package executor

import "github.com/airlock-ci/airlock/internal/fault"

// rights are what a caller may do, each including the one before. The zero value is none: the caller is told so,
// and nothing else.
type rights int

const (
	// rightsJobs: drive jobs: prepare, run and cleanup.
	rightsJobs rights = iota + 1
	// rightsAll: everything; root (Linux), administrators (Windows).
	rightsAll
)

// peer is who is at the other end of a connection.
type peer struct {
	name   string // for messages: "user 65534"
	rights rights
	group  string // whose members have rightsJobs
	uid    uint32 // of its user; 0 on Windows
}

// require returns a refusal, of class admin, unless the peer has the rights for what.
func (p peer) require(needed rights, what string) error {
	if p.rights >= needed {
		return nil
	}
	switch {
	case needed == rightsAll:
		return fault.Adminf("%s needs root; %s is not", what, p.name)
	case p.group == "":
		return fault.Adminf("%s needs root, since no group is configured; %s is not",
			what, p.name)
	default:
		return fault.Adminf("%s is neither root nor in the group %q, which %s needs",
			p.name, p.group, what)
	}
}
