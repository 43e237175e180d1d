package cache

import (
	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/records"
	"github.com/airlock-ci/airlock/cache/registry"
	"github.com/airlock-ci/airlock/cache/scratch"
	"github.com/airlock-ci/airlock/cache/space"
)

// What callers of the cache say and hear in its rooms' own words.
type (
	// Use is room on a file system.
	Use = space.Use
	// Counts are events of a cache.
	Counts = space.Counts
	// Credentials open a registry.
	Credentials = registry.Credentials
	// Config is the part of an image's configuration that a sandbox needs.
	Config = records.Config
	// ImageInfo describes an image in the cache.
	ImageInfo = records.Info
	// Scratch is the writable layer of one sandbox.
	Scratch = scratch.Scratch
	// ScratchKind is how scratches are made and bounded.
	ScratchKind = scratch.Kind
)

// The kinds of scratches.
const (
	ScratchLoop      = scratch.Loop
	ScratchTmpfs     = scratch.Tmpfs
	ScratchDirectory = scratch.Directory
)

// DiskSize is the size of every disk image, in bytes.
const DiskSize = disk.Size
