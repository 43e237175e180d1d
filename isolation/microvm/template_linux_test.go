package microvm

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// TestClonesDiffer: what one clone of a template draws, no other does.
func TestClonesDiffer(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t)
	require.NoError(t, r.Warm(t.Context(), bench.spec(t).Limits, false))
	clones := 200
	if testing.Short() {
		clones = 5
	}
	// What the kernel itself hands to each new program is in the environment of one: AT_RANDOM, as od reads it.
	const ask = `cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
for source in /dev/urandom /dev/random; do head -c 32 $source | od -An -v -tx1 | tr -d ' \n'; echo; done
date +%s`
	var mutex sync.Mutex
	seen := map[string]int{}
	var group errgroup.Group
	group.SetLimit(2)
	for n := range clones {
		group.Go(func() error {
			spec := bench.spec(t)
			made, err := r.Create(t.Context(), spec)
			if err != nil {
				return err
			}
			before := time.Now()
			lines := strings.Split(strings.TrimSpace(shell(t, made, ask)), "\n")
			after := time.Now() // a loaded machine takes its time over the rest
			if err := errors.Join(made.Destroy(t.Context()), os.Remove(spec.ScratchDisk)); err != nil {
				return err
			}
			mutex.Lock()
			defer mutex.Unlock()
			require.True(t, made.(*sandbox).cloned)
			require.Len(t, lines, 6)
			for _, value := range lines[:5] {
				require.GreaterOrEqual(t, len(value), 32)
				require.NotContains(t, seen, value, "clones %d and %d", seen[value], n)
				seen[value] = n
			}
			clock, err := strconv.ParseInt(lines[5], 10, 64)
			require.NoError(t, err)
			require.WithinRange(t, time.Unix(clock, 0), before.Add(-3*time.Second), after.Add(3*time.Second))
			return nil
		})
	}
	require.NoError(t, group.Wait())
}

// TestTemplateThatCannotBeRestored is thrown away, and the sandbox is made all the same.
func TestTemplateThatCannotBeRestored(t *testing.T) {
	bench := newBench(t)
	edit := func(o *Options) { o.StateDir = filepath.Join(bench.dir, "state") }
	maker := bench.newRuntime(t, edit)
	require.NoError(t, maker.Warm(t.Context(), bench.spec(t).Limits, false))
	states, err := filepath.Glob(filepath.Join(bench.dir, "state/templates/*/state"))
	require.NoError(t, err)
	require.Len(t, states, 1)
	content, err := os.ReadFile(states[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(states[0], content[:len(content)/2], 0o600))

	s := bench.box(t, bench.newRuntime(t, edit), bench.spec(t))
	require.False(t, s.cloned)
	require.Equal(t, "up\n", shell(t, s, "echo up"))
	require.NoFileExists(t, states[0])
}

// TestTemplateIsImmutable: a QEMU that was taken over must not reach the other clones through their common memory.
func TestTemplateIsImmutable(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t)
	require.NoError(t, r.Warm(t.Context(), bench.spec(t).Limits, false))
	kept := r.templates.get(shapeOf(bench.spec(t).Limits, bench.spec(t).Network))
	for _, file := range []*os.File{kept.memory, kept.state} {
		writable, err := reopenForWriting(file)
		require.NoError(t, err)
		_, err = writable.WriteAt([]byte{1}, 0)
		require.ErrorIs(t, err, os.ErrPermission)
		require.Error(t, writable.Truncate(0))
		require.NoError(t, writable.Close())
	}
}

// TestTemplateNameFollowsWhatItIsMadeFrom lists what must make another template.
func TestTemplateNameFollowsWhatItIsMadeFrom(t *testing.T) {
	r := &Runtime{options: Options{QEMU: "/bin/true"}, accel: TCG, boot: &boot{Kernel: "k", Initramfs: "i", tscKHz: 1}}
	base := shape{256 << 20, 1, false}
	name := func() string {
		n, err := r.templateName(base)
		require.NoError(t, err)
		return n
	}
	original := name()
	r.boot.tscKHz = 2
	require.Equal(t, original, name(), "a measured frequency is not the same twice")
	for what, change := range map[string]func(){
		"kernel":      func() { r.boot.Kernel = "other" },
		"initramfs":   func() { r.boot.Initramfs = "other" },
		"QEMU":        func() { r.options.QEMU = "/bin/false" },
		"accelerator": func() { r.accel = KVM },
		"memory":      func() { base.memory *= 2 },
		"CPUs":        func() { base.cpus++ },
		"network":     func() { base.network = true },
	} {
		before := name()
		change()
		require.NotEqual(t, before, name(), what)
	}
}

// TestWhatIsKept: what replaces a kernel or a template removes those that nothing has used for long, and no others.
func TestWhatIsKept(t *testing.T) {
	dir := t.TempDir()
	age := func(name string, days int) {
		then := time.Now().AddDate(0, 0, -days)
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), then, then))
	}
	names := map[string]string{}
	for _, content := range []string{"old", "recent", "used again"} {
		name, err := store(dir, "vmlinux", []byte(content))
		require.NoError(t, err)
		names[content] = name
	}
	other, err := store(dir, "initramfs", []byte("another kind"))
	require.NoError(t, err)
	age(names["old"], 20)
	age(names["recent"], 10)
	age(names["used again"], 20)
	age(other, 20)
	_, err = store(dir, "vmlinux", []byte("used again"))
	require.NoError(t, err)
	fresh, err := store(dir, "vmlinux", []byte("new"))
	require.NoError(t, err)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	left := []string{}
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	require.ElementsMatch(t, []string{names["recent"], names["used again"], fresh, other}, left)
}
