package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// mounts returns what the container mounts over the image's root, in order.
func (r *Runtime) mounts(spec isolation.Spec) []specs.Mount {
	s := scratch(spec.ScratchDir)
	sources := layout.Sources{Agent: r.agentPath, Builds: s.builds(), Cache: spec.CacheDir}
	if sources.Cache == "" {
		sources.Cache = s.cache()
	}
	if spec.Helper != nil {
		sources.Helper, sources.HelperTmp = s.helper(), s.helperTmp()
	}
	var all []specs.Mount
	for _, m := range layout.Mounts(sources) {
		all = append(all, specs.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: m.Options})
	}
	if r.program.gvisor {
		all = append(all, gvisorMounts(spec)...)
	}
	return all
}
