package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLargeVariables holds docs/jobs.md to its word on what a runner can hand to the driver: one variable has less than 128 KiB
// (MAX_ARG_STRLEN of Linux), with its prefix and name, a file variable's content too; several of nearly so much are no trouble,
// and joined they are what one could not be.
func TestLargeVariables(t *testing.T) {
	driver := filepath.Join(t.TempDir(), "airlock-driver")
	out, err := exec.Command("go", "build", "-o", driver, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	const most = 128<<10 - 1 // the string's end counts
	variable := func(name string, length int) string {
		pair := "CUSTOM_ENV_" + name + "="
		return pair + strings.Repeat("x", length-len(pair))
	}
	start := func(variables ...string) error {
		cmd := exec.Command(driver, "version")
		cmd.Env = variables
		return cmd.Run()
	}
	require.NoError(t, start(variable("BIG", most)))
	require.ErrorIs(t, start(variable("BIG", most+1)), unix.E2BIG)
	var parts []string
	for _, name := range []string{"PART_1", "PART_2", "PART_3", "PART_4", "PART_5"} {
		parts = append(parts, variable(name, 120<<10))
	}
	require.NoError(t, start(parts...))
	join := exec.Command("sh", "-c", `printf %s "$CUSTOM_ENV_PART_1$CUSTOM_ENV_PART_2" | wc -c`)
	join.Env = append(parts, "PATH=/usr/bin:/bin")
	out, err = join.Output()
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(2*(120<<10-len("CUSTOM_ENV_PART_1="))), strings.TrimSpace(string(out)))
}
