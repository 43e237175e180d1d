package service

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// layers is what the service knows of layers beside what stands on the disk.
type layers struct {
	// scratches by the identity that is written into their disks, so that a renamed folder is still known.
	scratches map[string]*scratch
	// parents of imported layers, by native path, upper-most first.
	parents map[string][]string
}

// scratch is the writable layer of a container.
type scratch struct {
	id      string
	path    string   // native, as it was seen last
	name    string   // as the client named it last
	layers  []string // native, upper-most first
	size    uint64
	volume  GUID
	slashed bool // the mount path ends in a backslash

	active, prepared bool
	attached         bool   // by AttachVirtualDisk, until the next call that is about it
	merged           string // where the merged view is mounted, if there is one
	user             *system
}

// The files of a scratch's folder. On Windows all of them are inside the disk.
const (
	diskFile = "sandbox.vhdx"
	upperDir = "hcssim.upper"
	workDir  = "hcssim.work"
	// volumeFile is what an attached disk's volume leads to: a file with holes, as long as the volume.
	volumeFile = "hcssim.volume"
	filesDir   = "Files"
	blankDisk  = "blank.vhdx"
)

// defaultScratchSize is that of a scratch that was not expanded.
const defaultScratchSize = 20 << 30

// NameToGUID is the identity of a layer whose folder has a name. The real algorithm is not public; this is another one.
func NameToGUID(name string) GUID {
	sum := sha256.Sum256([]byte("hcssim layer " + name))
	var g GUID
	copy(g[:], sum[:])
	g[7] = g[7]&0x0f | 0x50 // version 5
	g[8] = g[8]&0x3f | 0x80
	return g
}

// base is the last element of a Windows path.
func base(windows string) string {
	windows = strings.TrimRight(windows, `\/`)
	return windows[strings.LastIndexAny(windows, `\/`)+1:]
}

// native returns the native path of a layer's folder.
func (s *Service) native(windows string) (string, error) {
	path, err := s.config.Disk.Path(windows)
	if err != nil {
		return "", broken(RulePath, InvalidArg, "%q: %v", windows, err)
	}
	return path, nil
}

// has says whether a layer has a file, without regard to case.
func (s *Service) has(layer string, elements ...string) bool {
	path, err := s.config.Disk.Path(layer + `\` + strings.Join(elements, `\`))
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// chain checks a chain of layers, upper-most first, and returns their native paths.
func (s *Service) chain(chain []Layer) ([]string, error) {
	if len(chain) == 0 {
		return nil, broken(RuleLayers, InvalidArg, "no layers")
	}
	var paths []string
	for _, layer := range chain {
		path, err := s.native(layer.Path)
		if err != nil {
			return nil, err
		}
		if want := NameToGUID(base(layer.Path)); layer.ID != want {
			return nil, broken(RuleLayerID, InvalidArg, "layer %s has the id %s, its name's is %s", layer.Path, layer.ID, want)
		}
		if !s.has(layer.Path, filesDir) {
			return nil, broken(RuleLayerFiles, PathNotFound, "layer %s has no Files", layer.Path)
		}
		if slices.Contains(paths, path) {
			return nil, broken(RuleLayers, InvalidArg, "layer %s is there twice", layer.Path)
		}
		paths = append(paths, path)
	}
	for i, layer := range chain {
		if isBase := s.has(layer.Path, blankDisk); isBase != (i == len(chain)-1) {
			return nil, broken(RuleLayerOrder, InvalidArg, "layer %d of %d, %s: a base, and nothing else, comes last", i+1, len(chain), layer.Path)
		}
	}
	if parents, known := s.layers.parents[paths[0]]; known && !slices.Equal(parents, paths[1:]) {
		return nil, broken(RuleLayerOrder, InvalidArg, "%s was imported onto %v", chain[0].Path, parents)
	}
	return paths, nil
}

// scratchAt returns the scratch in a folder; nil when there is none.
func (s *Service) scratchAt(windows string) (*scratch, error) {
	path, err := s.native(windows)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(path, diskFile))
	if err != nil {
		return nil, nil
	}
	found := s.layers.scratches[strings.TrimSpace(string(text))]
	if found != nil {
		if found.path != path && found.active {
			s.broken = append(s.broken, broken(RuleMoved, AccessDenied, "%s went to %s", found.path, path))
		}
		found.path, found.name = path, windows
	}
	return found, nil
}

// needScratch is scratchAt for those who need one.
func (s *Service) needScratch(windows string) (*scratch, error) {
	found, err := s.scratchAt(windows)
	if err == nil && found == nil {
		err = refuse(PathNotFound, "there is no scratch in %s", windows)
	}
	return found, err
}

func (s *Service) nameToGUID(c *call) ([]any, error) { return []any{NameToGUID(c.text(0))}, nil }

func (s *Service) layerExists(c *call) ([]any, error) {
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return []any{uint64(0)}, nil
	}
	return []any{uint64(1)}, nil
}

func (s *Service) createScratch(c *call) ([]any, error) {
	chain, err := s.chain(c.layers(1))
	if err != nil {
		return nil, err
	}
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	if s.has(c.text(0), diskFile) {
		return nil, broken(RuleExists, 0x80070050, "there is a scratch in %s", c.text(0))
	}
	id := s.vary.newGUID().String()
	for _, dir := range []string{path, filepath.Join(path, upperDir), filepath.Join(path, workDir)} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, refuse(PathNotFound, "%v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(path, diskFile), []byte(id+"\n"), 0o666); err != nil {
		return nil, refuse(AccessDenied, "%v", err)
	}
	s.layers.scratches[id] = &scratch{
		id: id, path: path, name: c.text(0), layers: chain, size: defaultScratchSize, volume: s.vary.newGUID(),
		slashed: s.vary.chance("backslash of a mount path"),
	}
	return nil, nil
}

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

func (s *Service) activate(c *call) ([]any, error) {
	found, err := s.needScratch(c.text(0))
	if err != nil {
		return nil, err
	}
	found.attached = false
	if found.active || found.user != nil {
		return nil, broken(RuleActivate, Sharing, "the scratch %s is active or in use", found.name)
	}
	if err := s.config.Disk.Publish(found.volume, filepath.Join(found.path, upperDir)); err != nil {
		return nil, err
	}
	s.config.Disk.Hold(found.path)
	found.active = true
	return nil, nil
}

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
	found.prepared = true
	return nil, nil
}

// merge mounts what a container sees, where the guests have a view of their own, and lets the volume lead there.
func (s *Service) merge(found *scratch) error {
	merged, err := s.config.Guests.Merge(Scratch{
		Layers: found.layers, Upper: filepath.Join(found.path, upperDir), Work: filepath.Join(found.path, workDir),
	})
	if err != nil || merged == "" {
		return err
	}
	found.merged = merged
	return s.config.Disk.Publish(found.volume, merged)
}

// split undoes merge.
func (s *Service) split(found *scratch) {
	if found.merged != "" {
		s.config.Guests.Split(found.merged)
		found.merged = ""
	}
}

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
	for _, other := range s.layers.scratches {
		if _, err := os.Stat(filepath.Join(other.path, diskFile)); err == nil && slices.Contains(other.layers, path) {
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

// attach is AttachVirtualDisk on a scratch's disk, which hcsshim does to expand the volume in it. The disk is detached when the
// caller closes its handle, which nobody sees here: so it counts for nothing.
func (s *Service) attach(c *call) ([]any, error) {
	found, err := s.diskOwner(c.text(0))
	if err != nil {
		return nil, err
	}
	if found.active || found.user != nil {
		return nil, broken(RuleExpand, Sharing, "the scratch %s is active or in use", found.name)
	}
	volume := filepath.Join(found.path, volumeFile)
	if err := touch(volume); err != nil {
		return nil, err
	}
	if err := os.Truncate(volume, int64(found.size)); err != nil {
		return nil, err
	}
	found.attached = true
	return nil, s.config.Disk.Publish(found.volume, volume)
}

// openDisk is OpenVirtualDisk: it exists or not.
func (s *Service) openDisk(c *call) ([]any, error) {
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, refuse(FileNotFound, "%v", err)
	}
	return nil, nil
}

// detach is DetachVirtualDisk: it takes the disk away from whatever has it, short of a container.
func (s *Service) detach(c *call) ([]any, error) {
	found, err := s.diskOwner(c.text(0))
	if err != nil {
		return nil, err
	}
	if found.user != nil {
		return nil, broken(RuleDeactivate, Sharing, "%s uses the scratch %s", found.user.id, found.name)
	}
	if !found.active && !found.attached {
		return nil, refuse(NotReady, "the disk of %s is not attached", found.name)
	}
	s.unmount(found)
	return nil, nil
}

func (s *Service) diskOwner(disk string) (*scratch, error) {
	disk = strings.TrimPrefix(disk, `\\?\`)
	if !strings.EqualFold(base(disk), diskFile) {
		return nil, broken(RulePath, InvalidArg, "%s is no disk of a scratch", disk)
	}
	return s.needScratch(disk[:len(disk)-len(diskFile)-1])
}
