package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/airlock-ci/airlock/cache"
)

// importLayer imports one layer, from its tar on stdin, in a process of its own:
//
//	airlock-executor import-layer DIRECTORY [DIRECTORY BELOW]...
func importLayer(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("want the layer's directory and those of the layers below it")
	}
	logrus.SetOutput(io.Discard)
	// The answer goes to this process's parent; go-plugin has no part in it.
	return cache.ImportLayer(context.Background(), arguments[0], arguments[1:], os.Stdin, os.Stdout) //nolint:forbidigo // see above
}
