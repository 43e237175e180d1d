// Package layertar makes OCI layers of Windows images as tar streams, for the real import (hcsshim pkg/ociwclayer) and
// the simulated service behind it (testing/hcssim). They have the shape of Microsoft's layers and nothing of their
// content: what runs in such an image is Wine's own cmd.exe and the like.
//
// It is pure Go and works on both sides; only tests import it.
package layertar

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// BaseOptions says what a base layer is of.
type BaseOptions struct {
	// Build is that of the image's Windows, which the simulated service compares with the host's.
	Build int
	// UtilityVM adds what Hyper-V isolation boots.
	UtilityVM bool
	// Files are further files, by their paths below C:, with slashes.
	Files map[string]string
}

// Base returns a base layer.
func Base(o BaseOptions) []byte {
	l := newLayer()
	for _, hive := range []string{"DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM"} {
		l.file("Files/Windows/System32/config/"+hive, fmt.Sprintf("hcssim hive, CurrentBuild %d\n", o.Build))
	}
	l.files("Files", o.Files)
	if o.UtilityVM {
		l.folder("UtilityVM")
		l.folder("UtilityVM/Files")
		l.file("UtilityVM/Files/EFI/Microsoft/Boot/BCD", "boot configuration")
		l.file("UtilityVM/Files/EFI/Microsoft/Boot/bootmgfw.efi", "boot manager")
		l.file("UtilityVM/Files/Windows/System32/config/SYSTEM", fmt.Sprintf("hcssim hive, CurrentBuild %d\n", o.Build))
	}
	return l.bytes()
}

// Upper returns a layer above others: files by their paths below C:, and paths that it removes from its parents.
func Upper(files map[string]string, removed ...string) []byte {
	l := newLayer()
	l.files("Files", files)
	for _, name := range removed {
		l.entry(tar.Header{Name: path.Join("Files", path.Dir(name), ".wh."+path.Base(name)), Typeflag: tar.TypeReg}, "")
	}
	return l.bytes()
}

// WithUtilityVM returns an upper layer that changes the utility VM.
func WithUtilityVM(files, utility map[string]string) []byte {
	l := newLayer()
	l.files("Files", files)
	l.folder("UtilityVM")
	l.folder("UtilityVM/Files")
	l.files("UtilityVM/Files", utility)
	return l.bytes()
}

// layer is a tar stream in the making. It does not fail: it is written to memory.
type layer struct {
	buffer  bytes.Buffer
	tar     *tar.Writer
	folders map[string]bool
}

func newLayer() *layer {
	l := &layer{folders: map[string]bool{".": true}}
	l.tar = tar.NewWriter(&l.buffer)
	l.folder("Files")
	return l
}

func (l *layer) files(below string, files map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		l.file(path.Join(below, name), files[name])
	}
}

// The attributes are those of Windows: a folder, a file.
const (
	attributeFolder = "16"
	attributeFile   = "32"
)

func (l *layer) folder(name string) {
	if l.folders[name] {
		return
	}
	l.folder(path.Dir(name))
	l.folders[name] = true
	l.entry(tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{"MSWINDOWS.fileattr": attributeFolder}}, "")
}

func (l *layer) file(name, data string) {
	l.folder(path.Dir(strings.TrimSuffix(name, "/")))
	l.entry(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"MSWINDOWS.fileattr": attributeFile}}, data)
}

func (l *layer) entry(header tar.Header, data string) {
	header.Size, header.ModTime, header.Format = int64(len(data)), time.Unix(1_700_000_000, 0), tar.FormatPAX
	if err := l.tar.WriteHeader(&header); err != nil {
		panic(fmt.Sprintf("layertar: %v", err))
	}
	l.tar.Write([]byte(data))
}

func (l *layer) bytes() []byte {
	l.tar.Close()
	return l.buffer.Bytes()
}
