//go:build unix

package service

import (
	"path/filepath"
	"strings"
)

// unitTemplate is the systemd unit, in kardianos' small template language: {{Path}} and {{Arguments}} are
// filled in by it.
//
//   - Delegate and KillMode=process: systemd neither manages the sandboxes' cgroups nor kills the executor with
//     the supervisor, so that jobs' sandboxes survive a restart of the service.
//   - FileDescriptorStoreMax: systemd keeps the sockets while no supervisor lives, so that callers wait for the next.
//   - RuntimeDirectoryPreserve: the record by which the next supervisor finds the executor, and the
//     executor's own socket, lie there.
//   - PrivateTmp, ProtectSystem and their like are absent: they would put the executor into a mount namespace
//     that systemd tears down with the supervisor.
func unitTemplate(options Options) string {
	var directories strings.Builder
	if name := below("/run", options.RunDir); name != "" {
		directories.WriteString("RuntimeDirectory=" + name + "\nRuntimeDirectoryMode=0755\nRuntimeDirectoryPreserve=yes\n")
	}
	if name := below("/var/lib", options.StateDir); name != "" {
		directories.WriteString("StateDirectory=" + name + "\nStateDirectoryMode=0711\n")
	}
	return `[Unit]
Description=Airlock, sandboxes for GitLab CI jobs
Documentation=https://github.com/airlock-ci/airlock
After=network-online.target local-fs.target
Wants=network-online.target
Before=gitlab-runner.service
ConditionFileIsExecutable={{Path | cmdEscape}}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
FileDescriptorStoreMax=128
ExecStart={{Path | cmdEscape}}{{range Arguments}} {{. | cmd}}{{end}}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
KillMode=process
TimeoutStartSec=1min
TimeoutStopSec=5min
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=0
OOMScoreAdjust=-900
OOMPolicy=continue
UMask=0022
` + directories.String() + `
[Install]
WantedBy=multi-user.target
`
}

// below returns the name of a directory that lies directly below parent, else "".
func below(parent, dir string) string {
	if filepath.Dir(dir) == parent {
		return filepath.Base(dir)
	}
	return ""
}
