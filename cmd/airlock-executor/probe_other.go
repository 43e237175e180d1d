//go:build !linux

package main

import "errors"

func probe([]string) error {
	return errors.New("there is nothing to probe on this operating system")
}
