//go:build tools

// Package runner12 pins the module graph of GitLab Runner 12.8, the newest release whose modules are all in
// the public module proxy. It is a module of its own, so that its old dependencies never meet Airlock's.
package runner12

import _ "gitlab.com/gitlab-org/gitlab-runner"
