package service

import (
	"os"
	"path/filepath"
	"strings"
)

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
	if found.booted {
		return nil, broken(RuleMountedOnHost, AccessDenied, "a Hyper-V container has used the scratch %s", found.name)
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
