package main

import (
	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/isolation"
)

// form is what sandboxes of a level are made of: of layers at both.
func form(isolation.Level) cache.Form { return cache.FormLayers }
