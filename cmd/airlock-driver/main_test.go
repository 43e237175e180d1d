package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// allowed are the packages and modules that the driver may link, beside the standard library. Its start-up is paid about
// twelve times a job: think twice before adding one.
var allowed = []string{
	"github.com/airlock-ci/airlock/api",
	"github.com/airlock-ci/airlock/cmd/airlock-driver",
	"github.com/airlock-ci/airlock/driver",
	"github.com/airlock-ci/airlock/gitlab",
	"github.com/airlock-ci/airlock/internal/failpoint",
	"github.com/airlock-ci/airlock/internal/fault",
	"github.com/airlock-ci/airlock/internal/frame",
	"github.com/airlock-ci/airlock/internal/private", // Windows only
	"github.com/airlock-ci/airlock/isolation",        // where a job finds its directories

	// At most four modules.
	"github.com/Microsoft/go-winio/...", // Windows only
	"github.com/hashicorp/yamux",
	"gitlab.com/gitlab-org/gitlab-runner/executors/custom/api", // the runner's contract: two types, four names
	"golang.org/x/sys/...",                                     // Windows only
}

// heavy are packages of the standard library that the driver does without.
var heavy = []string{"net/http", "crypto/tls", "crypto/x509", "html/template", "text/template", "database/sql"}

func TestDriverLinksLittle(t *testing.T) {
	for _, system := range []string{"linux", "windows"} {
		list := exec.Command("go", "list", "-deps", ".")
		list.Env = append(list.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		out, err := list.Output()
		require.NoError(t, err)
		for _, pkg := range strings.Fields(string(out)) {
			first, _, _ := strings.Cut(pkg, "/")
			if strings.Contains(first, ".") {
				require.True(t, isAllowed(pkg), "%s: %s is not on the list of what the driver may link", system, pkg)
			} else {
				require.NotContains(t, heavy, pkg, system)
			}
		}
	}
}

func isAllowed(pkg string) bool {
	for _, entry := range allowed {
		prefix, tree := strings.CutSuffix(entry, "/...")
		if pkg == prefix || tree && strings.HasPrefix(pkg, prefix+"/") {
			return true
		}
	}
	return false
}
