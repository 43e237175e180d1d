// Package volume owns the directories in which jobs cache files, one for each scope.
//
// A scope is any text, and never leads out of the directory of volumes. The caller decides which jobs share one. It
// never looks into a volume: what jobs put there is theirs. The facade is its caller.
package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

var notInDirNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// Open returns the directory, below a directory of volumes alone, that keeps what the jobs of one scope cache between
// them, made when missing. The scope is any text; the caller decides which jobs share it. Its readable end in the
// directory's name is for administrators, the hash before it tells scopes apart.
func Open(volumes, scope string) (string, error) {
	if scope == "" {
		return "", fmt.Errorf("a cache volume needs a scope")
	}
	hash := sha256.Sum256([]byte(scope))
	readable := notInDirNames.ReplaceAllString(scope, "-")
	readable = readable[max(0, len(readable)-80):]
	dir := filepath.Join(volumes, hex.EncodeToString(hash[:8])+"-"+readable)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache volume of %q: %w", scope, err)
	}
	// MkdirAll obeys the umask; jobs of any user must get in.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("opening the cache volume of %q: %w", scope, err)
	}
	return dir, nil
}
