package service

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// layers is what the service knows of layers beside what stands on the disk.
type layers struct {
	// scratches by the identity that is written into their disks, so that a renamed folder is still known.
	scratches map[string]*scratch
	// parents of imported layers, by native path, upper-most first; a base has none.
	parents map[string][]string
	// imports are the folders that layers were imported from, by native path, with their names; their makers remove them.
	imports map[string]string
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
	booted           bool // a Hyper-V container has had it, and may have written anything at all into its file system
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
		parents, known := s.layers.parents[paths[i]]
		if !known {
			return nil, broken(RuleLayerFiles, PathNotFound, "layer %s was never imported", layer.Path)
		}
		if !slices.Equal(parents, paths[i+1:]) {
			return nil, broken(RuleLayerOrder, InvalidArg, "%s was imported onto %v", layer.Path, parents)
		}
	}
	return paths, nil
}

// scratchAt returns the scratch in a folder; nil when there is none.
func (s *Service) scratchAt(windows string) (*scratch, error) {
	path, err := s.native(windows)
	if err != nil {
		return nil, err
	}
	found := s.layers.scratches[diskIdentity(path)]
	if found == nil {
		return nil, nil
	}
	moved := found.path != path && (found.active || found.user != nil) && !sameFile(found.path, path)
	before := found.path
	found.path, found.name = path, windows // also when it is refused, so that it is once
	if moved {
		return nil, broken(RuleMoved, AccessDenied, "%s went to %s", before, path)
	}
	return found, nil
}

// diskIdentity returns the identity of the scratch whose folder this is, "" when it is none's.
func diskIdentity(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, diskFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// sameFile says whether two paths lead to the same: one of them may go through a link.
func sameFile(a, b string) bool {
	first, errA := os.Stat(a)
	second, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(first, second)
}

// present returns the scratches whose folders are there. Clients rename the folders, which no call tells: one that is not
// where it was seen last is looked for by its identity.
func (s *Service) present() []*scratch {
	var there []*scratch
	var elsewhere map[string]string
	for id, found := range s.layers.scratches {
		if diskIdentity(found.path) != id {
			if elsewhere == nil {
				elsewhere = s.findDisks()
			}
			name, ok := elsewhere[id]
			if !ok {
				continue
			}
			if _, err := s.scratchAt(name); err != nil {
				s.broken = append(s.broken, err)
			}
		}
		there = append(there, found)
	}
	return there
}

// findDisks returns the Windows paths of all folders with the disk of a scratch, by its identity. What layers, containers
// and Windows itself have there is none.
func (s *Service) findDisks() map[string]string {
	found := map[string]string{}
	drive, err := s.config.Disk.Path(`C:\`)
	if err != nil {
		return found
	}
	others := []string{filesDir, upperDir, workDir}
	filepath.WalkDir(drive, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case entry.IsDir() && (slices.Contains(others, entry.Name()) || path == filepath.Join(drive, "windows")):
			return fs.SkipDir
		case entry.Name() == diskFile:
			dir := filepath.Dir(path)
			found[diskIdentity(dir)] = `C:\` + strings.ReplaceAll(strings.TrimPrefix(dir, drive+"/"), "/", `\`)
		}
		return nil
	})
	return found
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
