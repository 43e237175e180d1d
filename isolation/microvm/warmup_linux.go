package microvm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// A waiting machine that is emulated warms up: it lives through the beginning of a sandbox's life with disks that mean
// nothing. An emulator translates every piece of code when it is first executed, and most of a start is that; what was
// translated stays with the process. With KVM there is nothing to gain.

// warmUpScratch is the size of the scratch disk of warm-ups, in bytes.
const warmUpScratch = 16 << 20

// warmUpDisks are the disks of all warm-ups, as memory files.
type warmUpDisks struct {
	image, scratch *os.File
}

func (r *Runtime) warmsUp() bool { return r.accelerator() == TCG && !r.options.NoWarmUp }

// attachWarmUp puts the disks of a warm-up behind a machine's devices: the image as it is, and as the helper root,
// too, and a scratch of its own.
func (r *Runtime) attachWarmUp(ctx context.Context, m *machine, files *descriptors) error {
	disks, err := r.warmUpDisks(ctx)
	if err != nil {
		return fmt.Errorf("making the disks of a warm-up: %w", err)
	}
	m.disks = map[string]int{}
	for _, serial := range []string{agent.GuestImage, agent.GuestHelper} {
		image, err := reopen(disks.image)
		if err != nil {
			return err
		}
		m.disks[serial] = files.add(image)
	}
	scratch, err := newMemory(0)
	if err != nil {
		return err
	}
	if err := copySparse(scratch, disks.scratch); err != nil {
		return errors.Join(err, scratch.Close())
	}
	m.disks[agent.GuestScratch] = files.add(scratch)
	return nil
}

// warmUpDisks returns the disks, made at the first call.
func (r *Runtime) warmUpDisks(ctx context.Context) (made *warmUpDisks, err error) {
	r.warmUpMu.Lock()
	defer r.warmUpMu.Unlock()
	if r.disks != nil {
		return r.disks, nil
	}
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	image, err := newMemory(0)
	if err != nil {
		return nil, err
	}
	undo.Push(image.Close)
	scratch, err := newMemory(warmUpScratch)
	if err != nil {
		return nil, err
	}
	undo.Push(scratch.Close)
	if err := errors.Join(writeWarmUpImage(image), seal(image), formatScratch(ctx, scratch)); err != nil {
		return nil, err
	}
	undo.Release()
	r.disks = &warmUpDisks{image, scratch}
	return r.disks, nil
}

// writeWarmUpImage writes an ext4 file system with what a shell script needs to be started.
func writeWarmUpImage(to *os.File) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	var errs []error
	for _, dir := range []string{"bin/", "etc/", "proc/", "sys/", "dev/", "run/", "tmp/", "usr/", "usr/bin/"} {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}))
	}
	for _, file := range []struct {
		name, content string
		mode          int64
	}{
		{"bin/sh", string(doNothing()), 0o755},
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644},
		{"etc/group", "root:x:0:\n", 0o644},
		{"etc/hosts", "127.0.0.1\tlocalhost\n", 0o644},
		{"etc/resolv.conf", "", 0o644},
		{"etc/hostname", "warm-up\n", 0o644},
	} {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: file.mode, Size: int64(len(file.content))}))
		_, err := io.WriteString(w, file.content)
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return err
	}
	return tar2ext4.ConvertTarToExt4(&archive, to)
}

// doNothing is a program for x86-64 that ends with status 0: an ELF header, one segment, and exit(0).
func doNothing() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov $60, %eax; xor %edi, %edi; syscall
	word := func(b []byte, size int, v uint64) []byte {
		for range size {
			b, v = append(b, byte(v)), v>>8
		}
		return b
	}
	b := append([]byte("\x7fELF"), 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, f := range []struct {
		size  int
		value uint64
	}{
		{2, 2}, {2, 62}, {4, 1}, {8, base + headers}, {8, 64}, {8, 0}, {4, 0}, {2, 64}, {2, 56}, {2, 1}, {2, 0}, {2, 0}, {2, 0}, // the file
		{4, 1}, {4, 5}, {8, 0}, {8, base}, {8, base}, {8, uint64(headers + len(code))}, {8, uint64(headers + len(code))}, {8, 4096}, // the segment
	} {
		b = word(b, f.size, f.value)
	}
	return append(b, code...)
}

// formatScratch writes an empty file system, much like a scratch's.
func formatScratch(ctx context.Context, disk *os.File) error {
	const inherited = "/proc/self/fd/3"
	mkfs := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", inherited)
	mkfs.ExtraFiles = []*os.File{disk}
	if out, err := mkfs.CombinedOutput(); err != nil {
		return fault.Systemf("mkfs.ext4: %w: %s", err, plain(string(out)))
	}
	return nil
}

// warmUp conducts one warm-up: a sandbox in which one script runs.
func (r *Runtime) warmUp(ctx context.Context, v *vm) error {
	setup, err := r.guestSetup(isolation.Spec{Hostname: "warm-up", Helper: &isolation.Root{}})
	if err != nil {
		return err
	}
	setup.Now = time.Now().UnixNano()
	return agent.WarmUp(ctx, v.agent, setup, func(ctx context.Context, client *agent.Client) error {
		var out bytes.Buffer
		for _, helper := range []bool{false, true} {
			p, err := client.Start(ctx, isolation.ProcessSpec{Script: []byte("true"), Helper: helper, Stdout: &out, Stderr: &out})
			if err != nil {
				return err
			}
			if _, err := p.Wait(); err != nil {
				return err
			}
		}
		return nil
	})
}
