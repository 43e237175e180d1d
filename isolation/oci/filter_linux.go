package oci

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"sync/atomic"
)

// Compiling the seccomp profile is most of what crun does: two thirds of the time to a sandbox. Its result depends
// on the profile, the kernel and libseccomp alone, so what crun compiled for this process's first sandbox serves
// all that follow.
const (
	// filterFile is where crun keeps the compiled filter in a container's state. It is ours alone to read: the
	// state directory is root's, and no sandbox sees it.
	filterFile = "seccomp.bpf"
	// filterAnnotation hands crun a compiled filter, in base64, to install instead; see crun(1).
	filterAnnotation = "run.oci.seccomp_bpf_data"
	// filterInstruction is the size of a struct sock_filter, which a filter is an array of.
	filterInstruction = 8
)

// compiledFilter is the filter of the first sandbox, once there was one. The zero value is ready.
type compiledFilter struct {
	base64 atomic.Pointer[string]
}

// keep takes over what the OCI runtime compiled for the container with this state directory. runc keeps no such
// file; then every sandbox's is compiled.
func (f *compiledFilter) keep(stateDir string) {
	if f.base64.Load() != nil {
		return
	}
	content, err := os.ReadFile(filepath.Join(stateDir, filterFile))
	if err != nil || len(content) == 0 || len(content)%filterInstruction != 0 {
		return
	}
	encoded := base64.StdEncoding.EncodeToString(content)
	f.base64.Store(&encoded)
}

func (f *compiledFilter) annotations() map[string]string {
	encoded := f.base64.Load()
	if encoded == nil {
		return nil
	}
	return map[string]string{filterAnnotation: *encoded}
}
