package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// hives are the registry files that every base has, in Files\Windows\System32\config. Source: hcsshim
// internal/wclayer/converttobaselayer.go.
var hives = []string{"DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM"}

// mayImport checks the privileges of an import.
func (c *call) mayImport() error {
	if need := backupPrivilege | restorePrivilege; c.held&need != need {
		return broken(RulePrivileges, PrivilegeHeld, "the thread has not enabled SeBackupPrivilege and SeRestorePrivilege")
	}
	return nil
}

// processBase is ProcessBaseImage: it makes what scratches are made from.
func (s *Service) processBase(c *call) ([]any, error) {
	if err := c.mayImport(); err != nil {
		return nil, err
	}
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	for _, hive := range hives {
		if !s.has(c.text(0), filesDir, "Windows", "System32", "config", hive) {
			return nil, broken(RuleLayerFiles, PathNotFound, `%s has no Files\Windows\System32\config\%s`, c.text(0), hive)
		}
	}
	respell(filepath.Join(path, filesDir))
	if err := os.MkdirAll(filepath.Join(path, "Hives"), 0o777); err != nil {
		return nil, err
	}
	for _, hive := range hives {
		if err := touch(filepath.Join(path, "Hives", hive+"_BASE")); err != nil {
			return nil, err
		}
	}
	s.layers.parents[path] = nil
	return nil, touch(filepath.Join(path, "layout"), filepath.Join(path, blankDisk), filepath.Join(path, "blank-base.vhdx"))
}

// processUtility is ProcessUtilityImage: it makes what utility VMs boot.
func (s *Service) processUtility(c *call) ([]any, error) {
	if err := c.mayImport(); err != nil {
		return nil, err
	}
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	if !s.has(c.text(0), filesDir) {
		return nil, broken(RuleLayerFiles, PathNotFound, "the utility VM in %s has no Files", c.text(0))
	}
	return nil, touch(filepath.Join(path, utilityDisk), filepath.Join(path, "SystemTemplateBase.vhdx"))
}

// utilityDisk is what tells a processed utility VM.
const utilityDisk = "SystemTemplate.vhdx"

func touch(paths ...string) error {
	for _, path := range paths {
		if err := os.WriteFile(path, []byte("made by hcssim\n"), 0o666); err != nil {
			return err
		}
	}
	return nil
}

// importLayer makes a layer of its transport form. As the caller removes and links files in the result afterwards, the
// result is complete: what the parent has, by hard links, and the layer's own.
func (s *Service) importLayer(c *call) ([]any, error) {
	if err := c.mayImport(); err != nil {
		return nil, err
	}
	parents, err := s.chain(c.layers(2))
	if err != nil {
		return nil, err
	}
	path, err := s.native(c.text(0))
	if err != nil {
		return nil, err
	}
	from, err := s.native(c.text(1))
	if err != nil {
		return nil, err
	}
	s.layers.imports[from] = c.text(1)
	if s.has(c.text(0), filesDir) || s.has(c.text(0), diskFile) {
		return nil, broken(RuleExists, 0x80070050, "there is a layer or a scratch in %s", c.text(0))
	}
	into := filepath.Join(path, filesDir)
	link := func(path, target string, _ fs.DirEntry) error { return os.Link(path, target) }
	if err := CopyTree(filepath.Join(parents[0], filesDir), into, link); err != nil {
		return nil, fmt.Errorf("cloning the parent: %w", err)
	}
	if err := unpackTransport(filepath.Join(from, filesDir), into); err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", c.text(1), err)
	}
	s.layers.parents[path] = parents
	return nil, nil
}

// respell gives Windows's folders the case in which Wine spells them. No client sees a difference, but an overlay of the
// two would have each twice.
func respell(files string) {
	for _, name := range []string{"windows", "users", "windows/system32"} {
		at := filepath.Join(files, name)
		if found := Fold(filepath.Dir(at), filepath.Base(at)); found != at {
			os.Rename(found, at)
		}
	}
}

// CopyTree makes the same folders, and lets copyFile make all else at its target.
func CopyTree(from, to string, copyFile func(path, target string, entry fs.DirEntry) error) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if entry.IsDir() {
			return os.MkdirAll(target, 0o777)
		}
		return copyFile(path, target, entry)
	})
}

// folderSuffix marks the file with a folder's own metadata in the transport form. Source: hcsshim
// internal/wclayer/legacy.go, Add.
const folderSuffix = ".$wcidirs$"

// unpackTransport adds the files of a transport form: each has its attributes in four bytes, then a backup stream.
func unpackTransport(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == from {
			return nil // a layer of nothing but tombstones
		}
		if err != nil {
			return err
		}
		target := foldPath(to, strings.TrimPrefix(path, from))
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o777)
		case strings.HasSuffix(path, folderSuffix):
			return os.MkdirAll(strings.TrimSuffix(target, folderSuffix), 0o777)
		}
		packed, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data, err := backupData(packed)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		os.Remove(target) // it may be a link of the parent's file
		return os.WriteFile(target, data, 0o777)
	})
}

// foldPath joins as filepath.Join does, but uses what is there already in another case.
func foldPath(root, relative string) string {
	at := root
	for _, element := range strings.Split(strings.Trim(relative, "/"), "/") {
		if element != "" {
			at = Fold(at, element)
		}
	}
	return at
}

// Fold returns the path of a directory's entry of that name in whatever case; an exact one is preferred, and what does
// not exist keeps its name.
func Fold(dir, name string) string {
	exact := filepath.Join(dir, name)
	if _, err := os.Lstat(exact); err == nil {
		return exact
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return exact
	}
	for _, entry := range entries {
		if strings.EqualFold(entry.Name(), name) {
			return filepath.Join(dir, entry.Name())
		}
	}
	return exact
}

// backupData returns the data of a file from its transport form. Source: hcsshim internal/wclayer/legacy.go;
// WIN32_STREAM_ID in Microsoft's documentation.
func backupData(packed []byte) ([]byte, error) {
	const header, dataStream = 20, 1
	if len(packed) < 4 {
		return nil, errors.New("no attributes")
	}
	var data []byte
	for packed = packed[4:]; len(packed) > 0; {
		if len(packed) < header {
			return nil, errors.New("half a stream header")
		}
		id := binary.LittleEndian.Uint32(packed)
		size, name := binary.LittleEndian.Uint64(packed[8:]), uint64(binary.LittleEndian.Uint32(packed[16:]))
		packed = packed[header:]
		if size > uint64(len(packed)) || name > uint64(len(packed))-size {
			return nil, errors.New("a stream beyond its end")
		}
		if id == dataStream {
			data = append(data, packed[name:name+size]...)
		}
		packed = packed[name+size:]
	}
	return data, nil
}

// imageBuild returns the build of a layer's system; 0 when nothing tells. The real service reads it from the registry's
// files, here it is their text: package layertar writes it.
func (s *Service) imageBuild(layer string) int {
	path, err := s.config.Disk.Path(layer + `\Files\Windows\System32\config\SOFTWARE`)
	if err != nil {
		return 0
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	var build int
	fmt.Sscanf(string(text), "hcssim hive, CurrentBuild %d", &build)
	return build
}
