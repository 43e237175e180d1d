package config_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
)

const twoSockets = `[[sockets]]
path = "/run/airlock-protected/host.sock"
group = "ci-protected"
runner_class = "protected"

[[sockets]]
path = "/run/airlock-nightly/host.sock"
group = "ci-nightly"
runner_class = "nightly"
`

func TestSockets(t *testing.T) {
	c := parse(t, twoSockets)
	require.Equal(t, []config.Socket{
		{Path: "/run/airlock-protected/host.sock", Group: "ci-protected", RunnerClass: "protected"},
		{Path: "/run/airlock-nightly/host.sock", Group: "ci-nightly", RunnerClass: "nightly"},
	}, c.Sockets)
	require.Empty(t, parse(t, "").Sockets)
}

// TestSocketsThatAreRefused: each mistake once, at its place, with what to do.
func TestSocketsThatAreRefused(t *testing.T) {
	edit := func(from, to string) string { return strings.Replace(twoSockets, from, to, 1) }
	for text, want := range map[string]string{
		edit(`"/run/airlock-protected/host.sock"`, `"protected.sock"`):                      `2:8: sockets.path: "protected.sock" is not an absolute path; begin it with a /`,
		edit(`"/run/airlock-protected/host.sock"`, `"/run/../run/x/host.sock"`):             `2:8: sockets.path: "/run/../run/x/host.sock" is not a plain path; write "/run/x/host.sock"`,
		edit(`"/run/airlock-protected/host.sock"`, `"/host.sock"`):                          `2:8: sockets.path: "/host.sock" is in the root directory`,
		edit(`"/run/airlock-protected/host.sock"`, `"/run/`+strings.Repeat("x", 110)+`/s"`): `is too long for a socket; take a path of 106 bytes at most`,
		edit(`"/run/airlock-protected/host.sock"`, `"/run/airlock/host/host.sock"`):         `2:8: sockets.path: "/run/airlock/host/host.sock" is in run_dir, /run/airlock, which is the service's own`,
		edit(`"/run/airlock-protected/host.sock"`, `"/var/lib/airlock/s"`):                  `is in state_dir, /var/lib/airlock`,
		edit(`"/run/airlock-nightly/host.sock"`, `"/run/airlock-protected/host.sock"`):      `7:8: sockets.path: "/run/airlock-protected/host.sock" is the socket of line 1, too`,
		edit(`"/run/airlock-nightly/host.sock"`, `"/run/airlock-protected/other.sock"`):     `7:8: sockets.path: its directory is that of the socket of line 1, which another group may enter`,
		edit(`"nightly"`, `"protected"`):                                                    `9:16: sockets.runner_class: the class "protected" has the socket of line 1 already`,
		edit("group = \"ci-nightly\"\n", ""):                                                `6:3: sockets: group is missing; add the group of the user`,
		edit("runner_class = \"nightly\"\n", ""):                                            `6:3: sockets: runner_class is missing`,
		edit("path = \"/run/airlock-nightly/host.sock\"\n", ""):                             `6:3: sockets: path is missing`,
		edit(`"ci-nightly"`, `""`):                                                          `8:9: sockets.group: "" is no group`,
		edit(`"ci-nightly"`, `"a b"`):                                                       `8:9: sockets.group: "a b" is not a group's name`,
		edit(`"nightly"`, `"a b"`):                                                          `9:16: sockets.runner_class: "a b" is not a runner class`,
		edit(`"nightly"`, `3`):                                                              `9:16: sockets.runner_class: 3 is not a string`,
		edit(`runner_class = "nightly"`, `runnerclass = "nightly"`):                         `9:1: sockets.runnerclass: unknown key; did you mean runner_class?`,
		edit(`runner_class = "nightly"`, "runner_class = \"nightly\"\nmode = 0o660"):        `10:1: sockets.mode: unknown key; remove it; the keys of [[sockets]] are path, group, runner_class`,
		"[sockets]\npath = '/a/b'\n":                                                        `1:2: sockets: there may be several; write [[sockets]]`,
		"sockets = [{path = '/a/b'}]\n":                                                     `1:1: sockets: its sockets are tables; write each below a line [[sockets]] of its own`,
		"[[socket]]\npath = '/a/b'\n":                                                       `1:3: socket: unknown table; did you mean [[sockets]]?`,
	} {
		_, err := config.Parse([]byte(text), "/c.toml")
		require.ErrorContains(t, err, want)
		require.Equal(t, fault.Admin, fault.ClassOf(err))
		require.NotContains(t, err.Error(), "\n", "one mistake, one line")
	}
}
