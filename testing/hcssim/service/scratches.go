package service

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// createScratch is CreateSandboxLayer: a folder with a disk, which is empty, above layers.
func (s *Service) createScratch(c *call) ([]any, error) {
	chain, err := s.chain(c.layers(1))
	if err != nil {
		return nil, err
	}
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	if s.has(c.text(0), diskFile) || s.has(c.text(0), filesDir) {
		return nil, broken(RuleExists, 0x80070050, "there is a scratch or a layer in %s", c.text(0))
	}
	id := s.vary.newGUID("a scratch").String()
	for _, dir := range []string{path, filepath.Join(path, upperDir), filepath.Join(path, workDir)} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, refuse(PathNotFound, "%v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(path, diskFile), []byte(id+"\n"), 0o666); err != nil {
		return nil, refuse(AccessDenied, "%v", err)
	}
	s.layers.scratches[id] = &scratch{
		id: id, path: path, name: c.text(0), layers: chain, size: defaultScratchSize, volume: s.vary.newGUID("a volume"),
		slashed: s.vary.chance("backslash of a mount path"),
	}
	return nil, nil
}

// expandScratch is ExpandSandboxSize: the size is noted, and bounds nothing.
func (s *Service) expandScratch(c *call) ([]any, error) {
	found, err := s.needScratch(c.text(0))
	if err != nil {
		return nil, err
	}
	if found.user != nil || found.active {
		return nil, broken(RuleExpand, Sharing, "the scratch %s is in use", found.name)
	}
	if c.number(1) < found.size {
		return nil, broken(RuleExpand, InvalidArg, "%d bytes are less than it has, %d", c.number(1), found.size)
	}
	found.size = c.number(1)
	return nil, nil
}

// activate is ActivateLayer: the disk is attached, its volume there.
func (s *Service) activate(c *call) ([]any, error) {
	found, err := s.needScratch(c.text(0))
	if err != nil {
		return nil, err
	}
	found.attached = false
	if found.active || found.user != nil {
		return nil, broken(RuleActivate, Sharing, "the scratch %s is active or in use", found.name)
	}
	if found.booted {
		return nil, broken(RuleMountedOnHost, AccessDenied, "a Hyper-V container has used the scratch %s", found.name)
	}
	if err := s.config.Disk.Publish(found.volume, filepath.Join(found.path, upperDir)); err != nil {
		return nil, err
	}
	s.config.Disk.Hold(found.path)
	found.active = true
	return nil, nil
}

// prepare is PrepareLayer: the volume shows the layers below, too.
func (s *Service) prepare(c *call) ([]any, error) {
	found, err := s.needScratch(c.text(0))
	if err != nil {
		return nil, err
	}
	chain, err := s.chain(c.layers(1))
	if err != nil {
		return nil, err
	}
	if !found.active || found.prepared {
		return nil, broken(RulePrepare, NotReady, "the scratch %s is active: %t, prepared: %t", found.name, found.active, found.prepared)
	}
	if !slices.Equal(chain, found.layers) {
		return nil, broken(RulePrepare, InvalidArg, "the scratch %s was made with %v", found.name, found.layers)
	}
	if err := s.merge(found); err != nil {
		return nil, err
	}
	if found.merged != "" {
		if err := s.config.Disk.Publish(found.volume, found.merged); err != nil {
			return nil, err
		}
	}
	found.prepared = true
	return nil, nil
}

// merge mounts what a container sees, where the guests have a view of their own.
func (s *Service) merge(found *scratch) (err error) {
	found.merged, err = s.config.Guests.Merge(Scratch{
		Layers: found.layers, Upper: filepath.Join(found.path, upperDir), Work: filepath.Join(found.path, workDir),
	})
	return err
}

// split undoes merge.
func (s *Service) split(found *scratch) {
	if found.merged != "" {
		s.config.Guests.Split(found.merged)
		found.merged = ""
	}
}

// mountPath is GetLayerMountPath. Both of its calls, for the length and for the path, give the same.
func (s *Service) mountPath(c *call) ([]any, error) {
	found, err := s.scratchAt(c.text(0))
	if err != nil {
		return nil, err
	}
	switch {
	case found == nil && s.has(c.text(0), filesDir):
		return []any{c.text(0)}, nil // a read-only layer is its folder
	case found == nil:
		return nil, refuse(PathNotFound, "there is no layer in %s", c.text(0))
	case !found.active && !found.attached:
		return nil, refuse(NotReady, "the scratch %s is not active", found.name)
	}
	path := VolumePath(found.volume)
	if found.slashed {
		path += `\`
	}
	return []any{path}, nil
}

// VolumePath is the path of a volume, without a backslash at its end.
func VolumePath(volume GUID) string { return fmt.Sprintf(`\\?\Volume{%s}`, volume) }

// unprepare is UnprepareLayer. That there is nothing to undo is no breach: a clean-up tries it.
func (s *Service) unprepare(c *call) ([]any, error) {
	found, err := s.needScratch(c.text(0))
	if err != nil {
		return nil, err
	}
	if found.user != nil {
		return nil, broken(RuleUnprepare, Sharing, "%s uses the scratch %s", found.user.id, found.name)
	}
	if !found.prepared {
		return nil, refuse(NotReady, "the scratch %s is not prepared", found.name)
	}
	s.split(found)
	found.prepared = false
	return nil, nil
}

// deactivate is DeactivateLayer.
func (s *Service) deactivate(c *call) ([]any, error) {
	found, err := s.needScratch(c.text(0))
	if err != nil {
		return nil, err
	}
	if found.prepared {
		return nil, broken(RuleDeactivate, Sharing, "the scratch %s is prepared", found.name)
	}
	if !found.active && !found.attached {
		return nil, refuse(NotReady, "the scratch %s is not active", found.name)
	}
	s.unmount(found)
	return nil, nil
}

// unmount takes a scratch's volume away, in whatever state it is.
func (s *Service) unmount(found *scratch) {
	s.split(found)
	if found.active || found.attached {
		s.config.Disk.Withdraw(found.volume)
		s.config.Disk.Release(found.path)
	}
	found.active, found.prepared, found.attached = false, false, false
}

// destroy is DestroyLayer: the folder goes, with all that is in it.
func (s *Service) destroy(c *call) ([]any, error) {
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err != nil {
		if s.vary.chance("destroying what is not there") {
			return nil, nil
		}
		return nil, refuse(PathNotFound, "there is no layer in %s", c.text(0))
	}
	found, err := s.scratchAt(c.text(0))
	if err != nil {
		return nil, err
	}
	if found != nil && (found.active || found.user != nil) {
		return nil, broken(RuleDestroy, AccessDenied, "the scratch %s is active or in use", found.name)
	}
	if above := s.knownBelow(path); above != "" {
		return nil, broken(RuleDestroy, AccessDenied, "%s is no layer, %s is in it", c.text(0), above)
	}
	for _, other := range s.present() {
		if slices.Contains(other.layers, path) {
			return nil, broken(RuleDestroy, AccessDenied, "the scratch %s was made with %s", other.name, c.text(0))
		}
	}
	for _, sys := range s.systems {
		if sys.template && strings.HasPrefix(sys.imagePath, path+"/") {
			return nil, refuse(Sharing, "the template %s uses %s", sys.id, c.text(0))
		}
	}
	if found != nil {
		s.unmount(found)
		delete(s.layers.scratches, found.id)
	}
	delete(s.layers.parents, path)
	if err := os.RemoveAll(path); err != nil {
		return nil, refuse(AccessDenied, "%v", err)
	}
	return nil, nil
}

// knownBelow returns what is to be kept in a folder that is no layer: the drive's root, or one with layers or scratches in
// it; "" when there is nothing.
func (s *Service) knownBelow(path string) string {
	if drive, err := s.config.Disk.Path(`C:\`); err != nil || path == drive {
		return "everything"
	}
	for _, other := range s.present() {
		if strings.HasPrefix(other.path, path+"/") {
			return other.name
		}
	}
	for layer := range s.layers.parents {
		if _, err := os.Stat(layer); err == nil && strings.HasPrefix(layer, path+"/") {
			return layer
		}
	}
	return ""
}
