package hcs

import (
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// describe makes the document of one attempt's compute system; volume is empty at the hypervisor level.
func (r *Runtime) describe(spec isolation.Spec, layer, volume string) (Document, error) {
	doc := Document{
		Owner: owner, HostName: spec.Hostname, Scratch: layer, Volume: volume,
		MemoryMB: megabytes(spec.Limits.Memory), Endpoints: spec.Network.Endpoints,
		DNSSearch: strings.Join(spec.Network.Search, ","),
	}
	for _, dir := range spec.Image.Layers {
		var id string
		if err := r.host.do("naming a layer", func() (err error) { id, err = r.host.compute.LayerID(dir); return err }); err != nil {
			return Document{}, err
		}
		doc.Layers = append(doc.Layers, LayerRef{ID: id, Path: dir})
	}
	mapped, err := r.mapped(spec)
	if err != nil {
		return Document{}, err
	}
	doc.Mapped = mapped
	if r.level == isolation.HypervisorLevel {
		doc.SkipTemplate = !r.host.opts.Templates
		if doc.UtilityVM, err = utilityVM(spec.Image.Layers); err != nil {
			return Document{}, err
		}
	}
	r.processors(&doc, spec.Limits.CPUs)
	return doc, nil
}

// processors sets the one processor setting that fits the level. A container that shares the kernel may have one
// only, and a share of all processors is the exact one. A machine sees whole processors, at most a share of which it
// gets when the limit is a broken number.
func (r *Runtime) processors(doc *Document, cpus float64) {
	all := float64(max(r.host.opts.CPUs, 1))
	if r.level == isolation.ProcessLevel {
		if cpus > 0 && cpus < all {
			doc.ProcessorMaximum = max(1, int64(cpus/all*10000))
		}
		return
	}
	if cpus <= 0 || cpus > all {
		cpus = all
	}
	whole := math.Ceil(cpus)
	doc.ProcessorCount = uint32(whole)
	if cpus < whole {
		doc.ProcessorMaximum = max(1, int64(cpus/whole*10000))
	}
}

// mapped lists the directories of the host that the sandbox sees. Only the project's cache can be written to, and
// only at the process level is one handed in.
func (r *Runtime) mapped(spec isolation.Spec) ([]MappedDir, error) {
	scripts, err := filepath.EvalSymlinks(scriptsOf(spec.ScratchDir))
	if err != nil {
		return nil, err
	}
	all := []MappedDir{{Host: scripts, Container: scriptDir, ReadOnly: true}}
	if r.host.opts.HelperDir != "" {
		all = append(all, MappedDir{Host: r.host.opts.HelperDir, Container: helperDir, ReadOnly: true})
	}
	if spec.CacheDir != "" {
		cache, err := filepath.EvalSymlinks(spec.CacheDir)
		if err != nil {
			return nil, err
		}
		all = append(all, MappedDir{Host: cache, Container: cacheDir})
	}
	return all, nil
}

// utilityVM is the virtual machine's image: that of the upper-most layer that has one.
func utilityVM(chain []string) (string, error) {
	for _, layer := range chain {
		dir := filepath.Join(layer, "UtilityVM")
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, nil
		}
	}
	return "", fault.WithRemedy(fault.Authorf("no layer of the image has a UtilityVM, so it cannot run with a kernel of its own"),
		"use an image that is made from Microsoft's nanoserver, servercore or server")
}

// megabytes rounds up.
func megabytes(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }
