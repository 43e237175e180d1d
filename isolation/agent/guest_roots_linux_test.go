package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A guest's disk has a lost+found of its own; what a guest shows has one only if the image does.
func TestLostAndFoundOfTheDiskIsHidden(t *testing.T) {
	for name, test := range map[string]struct {
		time  time.Time
		shown bool
	}{"the disk's": {time.Unix(0, 0), false}, "the image's": {time.Unix(1_500_000_000, 0), true}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"disk", "disk/lost+found", "disk/bin", "upper", "work", "root"} {
				require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
			}
			require.NoError(t, os.Chtimes(filepath.Join(dir, "disk/lost+found"), test.time, test.time))
			for range 2 { // a warm-up may have been there before
				require.NoError(t, hideLostAndFound(filepath.Join(dir, "disk"), filepath.Join(dir, "upper")))
			}
			root := filepath.Join(dir, "root")
			options := fmt.Sprintf("index=off,lowerdir=%[1]s/disk,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
			require.NoError(t, unix.Mount("overlay", root, "overlay", 0, options))
			defer func() { require.NoError(t, unix.Unmount(root, 0)) }()
			var names []string
			entries, err := os.ReadDir(root)
			require.NoError(t, err)
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if test.shown {
				require.Equal(t, []string{"bin", "lost+found"}, names)
				return
			}
			require.Equal(t, []string{"bin"}, names)
			require.NoError(t, os.Mkdir(filepath.Join(root, "lost+found"), 0o700), "a job may make one")
		})
	}
}
