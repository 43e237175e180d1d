package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Both let the system and administrators do everything, in all that is made below, too, and take nothing over from the
// directory above: in ProgramData, everybody may read, and make files and directories at any depth.
const (
	secret = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"
	// sealed lets everybody read (FILE_GENERIC_READ and FILE_EXECUTE), the users of containers included.
	sealed = secret + "(A;OICI;0x1200a9;;;WD)"
)

// Seal makes a directory that everybody may read and nobody but the system and administrators may change, or closes one
// that is there, with all that is in it. One that belongs to somebody else is refused.
func Seal(dir string) error { return makeDir(dir, sealed) }

// MakeDir makes a directory that nobody but the system and administrators may enter; those above it are made with what
// the system gives them, if they are missing. One that is there gets the same access, unless somebody else owns it: anyone
// may make a directory in ProgramData, and its owner could give himself any access again.
func MakeDir(dir string) error { return makeDir(dir, secret) }

func makeDir(dir, access string) error {
	descriptor, err := windows.SecurityDescriptorFromString(access)
	if err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	attributes := &windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(*attributes))
	err = windows.CreateDirectory(path, attributes)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	return claim(dir, descriptor)
}

// claim gives an existing directory the access, if it is ours to claim.
func claim(dir string, descriptor *windows.SECURITY_DESCRIPTOR) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", dir)
	}
	if err := CheckOwner(dir); err != nil {
		return err
	}
	// Windows writes a list into all that is below, one by one, even if nothing changes: that is done once.
	now, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err == nil && strings.Replace(now.String(), "D:PAI(", "D:P(", 1) == descriptor.String() {
		return nil
	}
	if err := checkContent(dir); err != nil {
		return err
	}
	list, _, err := descriptor.DACL()
	if err != nil {
		return err
	}
	err = windows.SetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, list, nil)
	if err != nil {
		return fmt.Errorf("closing %s to others: %w", dir, err)
	}
	return nil
}

// checkContent refuses what a stranger put into a directory before it was closed: it stays his, whatever is above it.
func checkContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := CheckOwner(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// CheckOwner refuses a file or directory that belongs to neither the system, an administrator nor this process's user.
func CheckOwner(path string) error {
	found, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("asking who owns %s: %w", path, err)
	}
	if err := mustBeTrusted(path, found); err != nil {
		return fmt.Errorf("%w: remove it, or make it an administrator's: takeown /a /f \"%s\"", err, path)
	}
	return nil
}

// mustBeTrusted refuses what belongs to somebody else.
func mustBeTrusted(name string, found *windows.SECURITY_DESCRIPTOR) error {
	owner, _, err := found.Owner()
	if err != nil {
		return fmt.Errorf("asking who owns %s: %w", name, err)
	}
	trusted, err := isTrusted(owner)
	if err != nil {
		return fmt.Errorf("asking who owns %s: %w", name, err)
	}
	if !trusted {
		return fmt.Errorf("%s belongs to %s, who is neither the system nor an administrator", name, owner)
	}
	return nil
}

// isTrusted takes the system, administrators and the user that this process runs as.
func isTrusted(owner *windows.SID) (bool, error) {
	for _, known := range []windows.WELL_KNOWN_SID_TYPE{windows.WinLocalSystemSid, windows.WinBuiltinAdministratorsSid} {
		if owner.IsWellKnown(known) {
			return true, nil
		}
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return false, err
	}
	return owner.Equals(user.User.Sid), nil
}
