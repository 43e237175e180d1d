package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/isolation"
)

// examineHypervisor makes one check of a host on which the level is wanted or not.
func examineHypervisor(wanted bool, cfg config.Hypervisor, state string, check func(h *hypervisorChecks)) Finding {
	c := config.Default()
	c.Hypervisor, c.StateDir, c.Isolation = cfg, state, isolation.ProcessLevel
	h := &hypervisorChecks{report: &report{}, cfg: c, wanted: wanted}
	check(h)
	return h.findings[0]
}

func TestQEMUThatIsMissingOldOrBroken(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	examine := func(wanted bool) Finding {
		return examineHypervisor(wanted, config.Default().Hypervisor, "", func(h *hypervisorChecks) { h.qemu(t.Context()) })
	}
	script := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+text), 0o755))
	}
	require.Equal(t, Fail, examine(true).Status)
	require.Equal(t, Info, examine(false).Status)
	require.Contains(t, examine(false).Detail, "jobs of level process do not need it")
	for version, status := range map[string]Status{"7.2.22 (Debian 1:7.2)": OK, "10.0.2": OK, "7.1.0": Fail, "6.9": Fail, "none": Fail} {
		script("echo QEMU emulator version " + strings.ReplaceAll(strings.ReplaceAll(version, "(", "'('"), ")", "')'"))
		require.Equal(t, status, examine(true).Status, version)
	}
	script("echo no library >&2; exit 127")
	require.Contains(t, examine(true).Detail, "does not run: exit status 127: no library")
}

func TestGuestKernels(t *testing.T) {
	dir := t.TempDir()
	examine := func(kernel string) Finding {
		return examineHypervisor(true, config.Hypervisor{Kernel: kernel, KernelDir: dir}, "", func(h *hypervisorChecks) { h.kernel() })
	}
	require.Equal(t, Fail, examine("auto").Status)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "boot"), 0o755))
	image := filepath.Join(dir, "boot/vmlinuz-6.1.0-cloud")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.Equal(t, Fail, examine("auto").Status, "without modules it boots nothing")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "lib/modules/6.1.0-cloud"), 0o755))
	require.Equal(t, OK, examine("auto").Status)
	require.Equal(t, OK, examine(image).Status)
	require.Equal(t, Fail, examine(image+"-no").Status)
}

func TestAcceleratorAsRemembered(t *testing.T) {
	state := t.TempDir()
	examine := func(wanted, emulation bool) Finding {
		return examineHypervisor(wanted, config.Hypervisor{AllowEmulation: emulation}, state, (*hypervisorChecks).accelerator)
	}
	remember := func(boot, rest string) {
		require.NoError(t, os.MkdirAll(filepath.Join(state, "microvm"), 0o700))
		content := fmt.Sprintf(`{"boot_id": %q, %s}`, boot, rest)
		require.NoError(t, os.WriteFile(filepath.Join(state, "microvm/accelerator.json"), []byte(content), 0o600))
	}
	require.Contains(t, examine(true, true).Detail, "is found out when")
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	boot := strings.TrimSpace(string(id))

	remember(boot, `"accelerator": "kvm"`)
	require.Equal(t, OK, examine(true, false).Status)
	remember(boot, `"accelerator": "tcg", "kvm_failure": "it hangs\nin detail"`)
	require.Equal(t, Fail, examine(true, false).Status)
	require.Contains(t, examine(true, false).Detail, "(it hangs), and emulation is not allowed")
	require.Equal(t, Info, examine(false, false).Status)
	require.Equal(t, Warn, examine(true, true).Status)
	remember("another boot", `"accelerator": "kvm"`)
	require.Contains(t, examine(true, true).Detail, "is found out when")
}

// TestUserNamespaces: off, few, many, and a kernel without.
func TestUserNamespaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "max_user_namespaces")
	examine := func(wanted bool) Finding {
		return examineHypervisor(wanted, config.Hypervisor{}, "", func(h *hypervisorChecks) { h.userNamespaces(path) })
	}
	require.Equal(t, Fail, examine(true).Status)
	require.Equal(t, Info, examine(false).Status)
	for content, status := range map[string]Status{"0\n": Fail, "10\n": Warn, "96364\n": OK} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.Equal(t, status, examine(true).Status, content)
	}
	require.NoError(t, os.WriteFile(path, []byte("0\n"), 0o600))
	require.Contains(t, examine(true).Detail, "switched off")
	require.Equal(t, Info, examine(false).Status)
}

func TestSetprivThatIsMissing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	examine := func() Finding {
		return examineHypervisor(true, config.Hypervisor{}, "", func(h *hypervisorChecks) { h.setpriv() })
	}
	require.Equal(t, Fail, examine().Status)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "setpriv"), []byte("#!/bin/sh\n"), 0o755))
	require.Equal(t, OK, examine().Status)
}
