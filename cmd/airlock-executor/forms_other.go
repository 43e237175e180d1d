//go:build !windows

package main

import (
	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/isolation"
)

// form is what sandboxes of a level are made of.
func form(level isolation.Level) cache.Form {
	if level == isolation.HypervisorLevel {
		return cache.FormDisk
	}
	return cache.FormLayers
}
