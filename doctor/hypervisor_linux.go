package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/isolation"
)

// oldestQEMU is the oldest version whose machines and snapshots are as they are needed.
const oldestQEMU = "7.2"

// checkHypervisor looks for what virtual machines need. Where the configuration asks for them, what is missing is a
// failure, else a fact.
func checkHypervisor(ctx context.Context, r *report, options Options, cfg *config.Config) {
	h := &hypervisorChecks{report: r, cfg: cfg, wanted: slices.Contains(cfg.Levels(), isolation.HypervisorLevel)}
	complete := h.qemu(ctx)
	complete = h.kernel() && complete
	complete = h.setpriv() && complete
	complete = h.userNamespaces("/proc/sys/user/max_user_namespaces") && complete
	h.tun()
	if _, _, known := h.recall(); complete && h.wanted && !known && os.Geteuid() == 0 && !h.probe(ctx, options) {
		return
	}
	h.accelerator()
}

// probeTimeout bounds the attempts to boot a machine: with KVM, which may hang, and by emulation.
const probeTimeout = 2 * time.Minute

// probe lets the executor's program find out which accelerator works, by booting a machine: up to ten seconds where KVM
// hangs. It remembers that. What fails otherwise is reported here.
func (h *hypervisorChecks) probe(ctx context.Context, options Options) bool {
	const check = "accelerator"
	path, err := findBinary(options.BinDir, "airlock-executor")
	if err != nil {
		return true // reported with the other programs
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errors.New("the probe took too long"))
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "probe", "--config", options.ConfigPath).CombinedOutput()
	if _, _, known := h.recall(); err == nil || known {
		return true
	}
	h.fail(check, "see to what it says; the executor does the same for its first job", "no virtual machine boots: %s",
		strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", " | "))
	return false
}

type hypervisorChecks struct {
	*report
	cfg    *config.Config
	wanted bool
}

// missing reports what keeps virtual machines from running.
func (h *hypervisorChecks) missing(check, remedy, format string, args ...any) {
	if h.wanted {
		h.fail(check, remedy, format, args...)
		return
	}
	h.info(check, "%s; jobs of level process do not need it", fmt.Sprintf(format, args...))
}

var qemuVersion = regexp.MustCompile(`version ((\d+)\.(\d+)[0-9.]*)`)

func (h *hypervisorChecks) qemu(ctx context.Context) bool {
	const check, remedy = "qemu", "install it (apt install qemu-system-x86), or name another with qemu in [hypervisor]"
	path, err := exec.LookPath(h.cfg.Hypervisor.QEMU)
	if err != nil {
		h.missing(check, remedy, "%s is not installed", h.cfg.Hypervisor.QEMU)
		return false
	}
	line, err := firstLine(ctx, path, "--version")
	if err != nil {
		h.missing(check, remedy, "%s does not run: %v", path, err)
		return false
	}
	match := qemuVersion.FindStringSubmatch(line)
	if match == nil {
		h.missing(check, remedy, "%s is no QEMU that this check understands: %s", path, line)
		return false
	}
	var major, minor, oldMajor, oldMinor int
	_, _ = fmt.Sscan(match[2]+" "+match[3], &major, &minor) // digits, as matched
	_, _ = fmt.Sscanf(oldestQEMU, "%d.%d", &oldMajor, &oldMinor)
	if major < oldMajor || major == oldMajor && minor < oldMinor {
		h.missing(check, "use QEMU "+oldestQEMU+" or newer", "%s is version %s", path, match[1])
		return false
	}
	h.ok(check, "%s, version %s", path, match[1])
	return true
}

// kernel looks for a kernel for the guests, with its modules.
func (h *hypervisorChecks) kernel() bool {
	const check, remedy = "guest kernel", "install one (apt install linux-image-cloud-amd64), or name one with kernel and kernel_dir in [hypervisor]"
	v := h.cfg.Hypervisor
	if v.Kernel != "auto" {
		if _, err := os.Stat(v.Kernel); err != nil {
			h.missing(check, remedy, "%v", err)
			return false
		}
		h.ok(check, "%s", v.Kernel)
		return true
	}
	images, _ := filepath.Glob(filepath.Join(v.KernelDir, "boot", "vmlinuz-*"))
	images = slices.DeleteFunc(images, func(path string) bool {
		version := strings.TrimPrefix(filepath.Base(path), "vmlinuz-")
		_, err := os.Stat(filepath.Join(v.KernelDir, "lib/modules", version))
		return err != nil
	})
	if len(images) == 0 {
		h.missing(check, remedy, "there is no kernel with its modules in %s and %s",
			filepath.Join(v.KernelDir, "boot"), filepath.Join(v.KernelDir, "lib/modules"))
		return false
	}
	h.ok(check, "%d to choose from in %s", len(images), filepath.Join(v.KernelDir, "boot"))
	return true
}

// setpriv looks for the program that takes from QEMU what it must not have.
func (h *hypervisorChecks) setpriv() bool {
	const check = "setpriv"
	path, err := exec.LookPath("setpriv")
	if err != nil {
		h.missing(check, "install it (apt install util-linux)", "setpriv is not installed")
		return false
	}
	h.ok(check, "%s", path)
	return true
}

// fewNamespaces is a limit that a busy host may reach: every virtual machine has a user namespace of its own, and so have
// other programs' containers.
const fewNamespaces = 128

// userNamespaces looks whether QEMU can have a user namespace of its own. There is no machine without: an administrator who
// has switched them off decides which of the two is wanted. Path is where the kernel says how many there may be.
func (h *hypervisorChecks) userNamespaces(path string) bool {
	const check, remedy = "user namespaces", "sysctl -w user.max_user_namespaces=15000, and the same line in /etc/sysctl.d"
	content, err := os.ReadFile(path)
	if err != nil {
		h.missing(check, "use a kernel with CONFIG_USER_NS", "%v", err)
		return false
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(content)))
	switch {
	case err != nil:
		h.missing(check, remedy, "%s: %v", path, err)
		return false
	case most == 0:
		h.missing(check, remedy, "they are switched off (%s is 0), and every virtual machine has one", path)
		return false
	case most < fewNamespaces && h.wanted:
		h.warn(check, remedy, "there may be %d, and every virtual machine has one", most)
	default:
		h.ok(check, "there may be %d", most)
	}
	return true
}

// tun looks for the device by which a guest gets its network.
func (h *hypervisorChecks) tun() {
	const check = "tun"
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		h.missing(check, "load the module: modprobe tun", "%v", err)
		return
	}
	_ = file.Close()
	h.ok(check, "/dev/net/tun is there")
}

// probed is what the executor remembers of trying to boot a machine, see isolation/microvm.
type probed struct {
	BootID      string `json:"boot_id"`
	Accelerator string `json:"accelerator"`
	KVMFailure  string `json:"kvm_failure"`
}

// accelerator reports what the executor found out since the host started. That /dev/kvm is there proves nothing: it may
// hang every guest at its first instruction. Only a machine that boots decides, and booting is the executor's.
func (h *hypervisorChecks) accelerator() {
	const check = "accelerator"
	const enable = "enable (nested) virtualisation for this host"
	const remedy = enable + ", or set allow_emulation = true in [hypervisor], which is several times slower"
	found, at, ok := h.recall()
	device := "/dev/kvm is there"
	if _, err := os.Stat("/dev/kvm"); err != nil {
		device = "there is no /dev/kvm"
	}
	switch emulation := h.cfg.Hypervisor.AllowEmulation; {
	case ok && found.Accelerator == "kvm":
		h.ok(check, "KVM: a machine booted with it at %s", at)
	case ok && emulation:
		h.warn(check, enable, "emulation, several times slower: KVM did not work when it was tried at %s (%s)", at, found.KVMFailure)
	case ok:
		h.missing(check, remedy, "KVM did not work when it was tried at %s (%s), and emulation is not allowed", at, found.KVMFailure)
	case device != "/dev/kvm is there" && !emulation:
		h.missing(check, remedy, "%s, and emulation is not allowed", device)
	default:
		h.info(check, "%s; whether it works is found out when the first machine is needed", device)
	}
}

// recall reads the memory of a probe, if it is one of this boot.
func (h *hypervisorChecks) recall() (found probed, at string, ok bool) {
	path := filepath.Join(h.cfg.StateDir, "microvm", "accelerator.json")
	info, err := os.Stat(path)
	if err != nil {
		return probed{}, "", false
	}
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &found) != nil || found.Accelerator == "" {
		return probed{}, "", false
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || strings.TrimSpace(string(id)) != found.BootID {
		return probed{}, "", false
	}
	found.KVMFailure, _, _ = strings.Cut(found.KVMFailure, "\n")
	return found, info.ModTime().UTC().Format(time.RFC3339), true
}
