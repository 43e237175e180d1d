package supervisor

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
)

// rights are what a caller may do, each including the one before. The zero value is none: the caller is told so,
// and nothing else.
type rights int

const (
	// rightsJobs: drive jobs, by Version and by Call with prepare, run and cleanup.
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

// require returns a PermissionDenied status unless the peer has the rights for what.
func (p peer) require(needed rights, what string) error {
	if p.rights >= needed {
		return nil
	}
	switch {
	case needed == rightsAll:
		return status.Errorf(codes.PermissionDenied, "%s needs root; %s is not", what, p.name)
	case p.group == "":
		return status.Errorf(codes.PermissionDenied, "%s needs root, since no group is configured; %s is not",
			what, p.name)
	default:
		return status.Errorf(codes.PermissionDenied, "%s is neither root nor in the group %q, which %s needs",
			p.name, p.group, what)
	}
}

// verbOf names what an opening frame asks for and the rights that takes.
func verbOf(open *api.ClientFrame) (verb string, needed rights, err error) {
	switch open.GetKind().(type) {
	case *api.ClientFrame_Prepare:
		return "prepare", rightsJobs, nil
	case *api.ClientFrame_Run:
		return "run", rightsJobs, nil
	case *api.ClientFrame_Cleanup:
		return "cleanup", rightsJobs, nil
	case *api.ClientFrame_Resume:
		return "resume", rightsJobs, nil
	case *api.ClientFrame_Sandbox:
		return "sandbox", rightsAll, nil
	case *api.ClientFrame_Shell:
		return "shell", rightsAll, nil
	case *api.ClientFrame_Pull:
		return "pull", rightsAll, nil
	case *api.ClientFrame_Import:
		return "import", rightsAll, nil
	default:
		return "unknown", rightsAll, fmt.Errorf("a call was opened with %T, which opens none", open.GetKind())
	}
}
