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
	return claim(dir, access)
}

// claim gives an existing directory the access, if it is ours to claim.
func claim(dir, access string) error {
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
	// Windows writes a list into all that is below, one by one, even if nothing changes: that is done once. An
	// administrator who has closed a directory even to readers knows why.
	if has(dir, access) || has(dir, secret) {
		return nil
	}
	// First a list that is not yet the wanted one, so that what is refused is looked at again at the next start.
	if err := setList(dir, access+"(A;;FR;;;SY)"); err != nil {
		return err
	}
	if err := checkContent(dir, access == sealed); err != nil {
		return err
	}
	return setList(dir, access)
}

// has says whether a directory has exactly this access list, which takes nothing over from above.
func has(dir, access string) bool {
	found, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return false
	}
	// "D:PAI(A;...)": the flags say, beside P, whether Windows or a program wrote the entries.
	flags, entries, _ := strings.Cut(strings.TrimPrefix(found.String(), "D:"), "(")
	_, wanted, _ := strings.Cut(access, "(")
	return strings.HasPrefix(flags, "P") && entries == wanted
}

func setList(dir, access string) error {
	descriptor, err := windows.SecurityDescriptorFromString(access)
	if err != nil {
		return fmt.Errorf("closing %s to others: %w", dir, err)
	}
	list, _, err := descriptor.DACL()
	if err != nil {
		return fmt.Errorf("closing %s to others: %w", dir, err)
	}
	err = windows.SetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, list, nil)
	if err != nil {
		return fmt.Errorf("closing %s to others: %w", dir, err)
	}
	return nil
}

// checkContent refuses what a stranger put into a directory before it was closed: it stays his, whatever is above it. What
// is deeper is looked at, too, where everybody may read, but not in directories that have closed themselves.
func checkContent(dir string, deep bool) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if err := CheckOwner(path); err != nil {
			return err
		}
		if entry.IsDir() && (!deep || closed(path)) {
			return fs.SkipDir
		}
		return nil
	})
}

// closed says whether a directory takes no access over from the one above it.
func closed(dir string) bool {
	found, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return false
	}
	control, _, err := found.Control()
	return err == nil && control&windows.SE_DACL_PROTECTED != 0
}

// CheckOwner refuses a file or directory that belongs to neither the system, the administrators nor this process's user.
func CheckOwner(path string) error {
	owner, err := ownerOf(path)
	if err != nil {
		return err
	}
	if err := mustBeTrusted(path, owner); err != nil {
		return fmt.Errorf("%w: remove it, or make it the administrators': takeown /a /f \"%s\"", err, path)
	}
	return nil
}

// CheckServiceOwner is CheckOwner for a service, which does not run as this process's user.
func CheckServiceOwner(path string) error {
	owner, err := ownerOf(path)
	if err == nil && !isSystems(owner) {
		err = fmt.Errorf("%s belongs to %s, and not to the system or the administrators: takeown /a /f \"%s\"", path, owner, path)
	}
	return err
}

func ownerOf(path string) (*windows.SID, error) {
	found, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return nil, fmt.Errorf("asking who owns %s: %w", path, err)
	}
	owner, _, err := found.Owner()
	if err != nil {
		return nil, fmt.Errorf("asking who owns %s: %w", path, err)
	}
	return owner, nil
}

// mustBeTrusted refuses what belongs to somebody else.
func mustBeTrusted(name string, owner *windows.SID) error {
	trusted, err := isTrusted(owner)
	if err != nil {
		return fmt.Errorf("asking who owns %s: %w", name, err)
	}
	if !trusted {
		return fmt.Errorf("%s belongs to %s, and not to the system or the administrators", name, owner)
	}
	return nil
}

// isTrusted takes the system, administrators and the user that this process runs as.
func isTrusted(owner *windows.SID) (bool, error) {
	if isSystems(owner) {
		return true, nil
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return false, err
	}
	return owner.Equals(user.User.Sid), nil
}

// isSystems takes the system and the administrators.
func isSystems(owner *windows.SID) bool {
	return owner.IsWellKnown(windows.WinLocalSystemSid) || owner.IsWellKnown(windows.WinBuiltinAdministratorsSid)
}
