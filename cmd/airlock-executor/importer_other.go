//go:build !windows

package main

import "errors"

func importLayer([]string) error {
	return errors.New("layers are imported by a process of their own on Windows alone")
}

// importer is none: layers are unpacked by the executor itself.
func importer() ([]string, error) { return nil, nil }
