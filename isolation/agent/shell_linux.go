package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// maxInterpreters bounds how many scripts may interpret each other: Linux's own bound (BINPRM_MAX_RECURSION).
const maxInterpreters = 5

// shell returns the root's bash, else its sh: the first that can be executed, with what it needs itself for that.
func (r *root) shell(searched string) (string, error) {
	dirs := append(searchPath(searched), "/bin", "/usr/bin", "/usr/local/bin")
	broken := ""
	for _, name := range []string{"bash", "sh"} {
		for _, dir := range dirs {
			file := path.Join(dir, name)
			missing, ok := r.missing(file)
			if !ok {
				continue
			}
			if missing == "" {
				return file, nil
			}
			if broken == "" {
				broken = fmt.Sprintf("; %s needs %s, which is missing", file, missing)
			}
		}
	}
	return "", fault.WithRemedy(
		fault.Authorf("the image has no shell: neither bash nor sh is in %s%s", strings.Join(dirs, ":"), broken),
		"use an image that has one, for example the image's variant with a shell instead of a distroless one")
}

// missing returns which interpreter an executable lacks, its own or its interpreter's; it is not ok when the file is no
// executable at all.
func (r *root) missing(file string) (interpreter string, ok bool) {
	for range maxInterpreters {
		if !r.isExecutable(file) {
			return file, interpreter != ""
		}
		if interpreter = r.interpreter(file); interpreter == "" {
			return "", true
		}
		file = path.Join("/", interpreter)
	}
	return file, true
}

// interpreter returns what the kernel needs to execute a file: the interpreter that a script's first line names, or a
// program's dynamic loader. It is empty when the file needs none, or when that cannot be told.
func (r *root) interpreter(file string) string {
	// O_NONBLOCK, because it may have become a FIFO.
	fd, err := r.open(file, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	begin := make([]byte, 256) // BINPRM_BUF_SIZE: the kernel reads no more of a script
	n, _ := f.ReadAt(begin, 0) // an error means fewer bytes
	begin = begin[:max(n, 0)]
	if line, script := bytes.CutPrefix(begin, []byte("#!")); script {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if words := bytes.Fields(line); len(words) > 0 {
			return string(words[0])
		}
		return ""
	}
	return loader(f, begin)
}

// loader returns the path in the segment PT_INTERP of a 64-bit little-endian ELF file: elf(5). It is not debug/elf's,
// which is not made for hostile files: what it allocates, or does, the file decides.
func loader(f *os.File, header []byte) string {
	const (
		magic      = "\x7fELF\x02\x01" // 64 bits, little-endian
		headerSize = 64
		entrySize  = 56
		mostTypes  = 64 // segments looked at; programs have about ten
		interp     = 3  // PT_INTERP
	)
	little := binary.LittleEndian
	if len(header) < headerSize || !bytes.HasPrefix(header, []byte(magic)) || little.Uint16(header[54:]) != entrySize {
		return ""
	}
	table := make([]byte, entrySize*min(int(little.Uint16(header[56:])), mostTypes))
	if _, err := f.ReadAt(table, int64(little.Uint64(header[32:]))); err != nil {
		return ""
	}
	for ; len(table) > 0; table = table[entrySize:] {
		if little.Uint32(table) != interp {
			continue
		}
		name := make([]byte, min(little.Uint64(table[32:]), unix.PathMax))
		if _, err := f.ReadAt(name, int64(little.Uint64(table[8:]))); err != nil {
			return ""
		}
		return unix.ByteSliceToString(name)
	}
	return ""
}
