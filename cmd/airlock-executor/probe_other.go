//go:build !linux

package main

import "errors"

func probe([]string) error {
	return errors.New("there are no virtual machines on this operating system yet")
}
