package service

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// validate checks a document against the machine, and resolves what it names.
func (s *Service) validate(sys *system) error {
	doc := &sys.document
	if doc.SystemType != "Container" {
		return broken(RuleSystemType, InvalidArg, "SystemType is %q", doc.SystemType)
	}
	if sys.id == "" || doc.Name != sys.id {
		return broken(RuleName, InvalidArg, "Name is %q, the id %q", doc.Name, sys.id)
	}
	chain, err := s.documentChain(doc)
	if err != nil {
		return err
	}
	for _, check := range []func(*system, []Layer) error{
		s.validateScratch, s.validateIsolation, s.validateBuild, s.validateProcessors, s.validateMapped, s.validateEndpoints,
	} {
		if err := check(sys, chain); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) documentChain(doc *document) ([]Layer, error) {
	var chain []Layer
	for _, layer := range doc.Layers {
		id, err := ParseGUID(layer.ID)
		if err != nil {
			return nil, broken(RuleLayerID, InvalidArg, "%v", err)
		}
		chain = append(chain, Layer{ID: id, Path: layer.Path})
	}
	return chain, nil
}

// validateScratch finds the scratch, which has to be made with these layers and be nobody's.
func (s *Service) validateScratch(sys *system, chain []Layer) error {
	layers, err := s.chain(chain)
	if err != nil {
		return err
	}
	if sys.document.LayerFolderPath == "" {
		return broken(RuleLayerFolder, InvalidArg, "there is no LayerFolderPath")
	}
	sys.scratch, err = s.scratchAt(sys.document.LayerFolderPath)
	switch {
	case err != nil:
		return err
	case sys.scratch == nil:
		return broken(RuleLayerFolder, PathNotFound, "there is no scratch in %s", sys.document.LayerFolderPath)
	case !slices.Equal(sys.scratch.layers, layers):
		return broken(RuleLayerFolder, InvalidArg, "the scratch was made with %v", sys.scratch.layers)
	case sys.scratch.user != nil:
		return broken(RuleLayerFolder, Sharing, "%s uses the scratch", sys.scratch.user.id)
	}
	sys.scratch.attached = false
	return nil
}

var volumePath = regexp.MustCompile(`^\\\\\?\\Volume\{([0-9a-fA-F-]{36})\}$`)

func (s *Service) validateIsolation(sys *system, chain []Layer) error {
	doc := &sys.document
	if doc.HvPartition {
		return s.validateHypervisor(sys, chain)
	}
	if doc.HvRuntime != nil {
		return broken(RuleHvRuntime, InvalidArg, "a process container has HvRuntime")
	}
	match := volumePath.FindStringSubmatch(doc.VolumePath)
	if match == nil {
		return broken(RuleVolume, InvalidArg, "VolumePath is %q", doc.VolumePath)
	}
	if !sys.scratch.active || !strings.EqualFold(match[1], sys.scratch.volume.String()) {
		return broken(RuleVolume, InvalidArg, "%s is not the volume of %s", doc.VolumePath, sys.scratch.name)
	}
	if !sys.scratch.prepared {
		return broken(RulePrepared, InvalidArg, "the scratch %s is not prepared", sys.scratch.name)
	}
	return nil
}

func (s *Service) validateHypervisor(sys *system, chain []Layer) error {
	doc := &sys.document
	switch {
	case doc.VolumePath != "":
		return broken(RuleVolume, InvalidArg, "a Hyper-V container has a VolumePath")
	case sys.scratch.active:
		return broken(RuleMountedOnHost, Sharing, "the scratch %s is active", sys.scratch.name)
	case doc.HvRuntime == nil || doc.HvRuntime.ImagePath == "":
		return broken(RuleHvRuntime, InvalidArg, "there is no ImagePath")
	}
	image, err := s.native(doc.HvRuntime.ImagePath)
	if err != nil {
		return err
	}
	for _, layer := range chain {
		if !s.has(layer.Path, "UtilityVM", filesDir) {
			continue
		}
		want, err := s.native(layer.Path + `\UtilityVM`)
		if err != nil {
			return err
		}
		if image != want {
			return broken(RuleHvRuntime, InvalidArg, `ImagePath is %s, the utility VM is in %s`, doc.HvRuntime.ImagePath, layer.Path)
		}
		if !s.has(layer.Path, "UtilityVM", utilityDisk) {
			return broken(RuleHvRuntime, PathNotFound, "the utility VM in %s was not processed", layer.Path)
		}
		sys.imagePath = image
		return nil
	}
	return broken(RuleHvRuntime, PathNotFound, "no layer has a utility VM")
}

// validateBuild applies Microsoft's rule of versions, which a client may meet: it knows the image only when it is there.
// Source: hcsshim osversion.CheckHostAndContainerCompat for process isolation; for Hyper-V isolation Microsoft's table
// of version compatibility.
func (s *Service) validateBuild(sys *system, chain []Layer) error {
	image, host := s.imageBuild(chain[len(chain)-1].Path), s.config.Build
	if image == 0 {
		return nil
	}
	if !sys.document.HvPartition && image < oldestImage(host) || image > host {
		return refuse(ImageMismatch, "the image's build is %d, the host's %d", image, host)
	}
	return nil
}

// oldestImage is the build of the oldest image that shares a host's kernel.
func oldestImage(host int) int {
	const ltsc2022, ltsc2025 = 20348, 26100
	switch {
	case host < ltsc2022:
		return host
	case host <= ltsc2025:
		return ltsc2022
	default:
		return ltsc2025
	}
}

func (s *Service) validateProcessors(sys *system, _ []Layer) error {
	doc := &sys.document
	set := 0
	for _, given := range []bool{doc.ProcessorCount > 0, doc.ProcessorWeight > 0, doc.ProcessorMaximum != 0} {
		if given {
			set++
		}
	}
	switch {
	case set > 1 && !doc.HvPartition:
		return broken(RuleProcessors, InvalidArg, "ProcessorCount, ProcessorWeight and ProcessorMaximum exclude each other")
	case doc.ProcessorMaximum < 0 || doc.ProcessorMaximum > 10000 || doc.ProcessorWeight > 10000:
		return broken(RuleProcessors, InvalidArg, "ProcessorMaximum is %d, ProcessorWeight %d", doc.ProcessorMaximum, doc.ProcessorWeight)
	case doc.MemoryMaximumInMB < 0:
		return broken(RuleProcessors, InvalidArg, "MemoryMaximumInMB is %d", doc.MemoryMaximumInMB)
	}
	return nil
}

var belowRoot = regexp.MustCompile(`^[A-Za-z]:(\\[^\\/]+)+\\?$`)

// plain says whether a path is absolute, below a drive's root, and has no steps up.
func plain(path string) bool {
	return belowRoot.MatchString(path) && !slices.ContainsFunc(strings.Split(path, `\`), func(element string) bool {
		return element == "." || element == ".."
	})
}

func (s *Service) validateMapped(sys *system, _ []Layer) error {
	for _, dir := range sys.document.MappedDirectories {
		path, err := s.config.Disk.Path(dir.HostPath)
		if err != nil {
			return broken(RuleMapped, InvalidArg, "HostPath %s: %v", dir.HostPath, err)
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil || real != path {
			return broken(RuleMapped, InvalidArg, "HostPath %s is missing, or leads through a link to %s", dir.HostPath, real)
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			return broken(RuleMapped, InvalidArg, "HostPath %s is no directory", dir.HostPath)
		}
		if !plain(dir.ContainerPath) {
			return broken(RuleMapped, InvalidArg, "ContainerPath %s is no plain path below a drive", dir.ContainerPath)
		}
		sys.document.mapped = append(sys.document.mapped, Mapped{Host: path, Container: dir.ContainerPath, ReadOnly: dir.ReadOnly})
	}
	return nil
}

func (s *Service) validateEndpoints(sys *system, _ []Layer) error {
	for _, id := range sys.document.EndpointList {
		endpoint := s.networks.endpoints[strings.ToLower(id)]
		if endpoint == nil {
			return broken(RuleEndpoint, EndpointMissing, "there is no endpoint %s", id)
		}
		if endpoint.user != "" || slices.Contains(sys.endpoints, endpoint.id) {
			return broken(RuleEndpoint, Sharing, "the endpoint %s is attached to %s", id, endpoint.user)
		}
		sys.endpoints = append(sys.endpoints, endpoint.id)
	}
	return nil
}
