package microvm

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// Accelerator is how QEMU runs the guests' instructions.
type Accelerator string

const (
	// Auto chooses KVM if it works, else TCG if that is allowed.
	Auto Accelerator = "auto"
	// KVM is the processor's own virtualisation.
	KVM Accelerator = "kvm"
	// TCG is emulation.
	TCG Accelerator = "tcg"
)

const (
	// defaultMemory is a machine's when there is no limit, in bytes; minMemory and memoryUnit bound and round it.
	defaultMemory = 512 << 20
	minMemory     = 128 << 20
	memoryUnit    = 2 << 20
	// qemuMemory is what the QEMU process may use beside the guest's memory, in bytes; translationBuffer is how much
	// of that TCG's translated code takes, in MiB.
	qemuMemory        = 256 << 20
	translationBuffer = 96
	// qemuThreads is how many threads QEMU may have beside its vCPUs: main loop, RCU, block workers.
	qemuThreads = 80
	// placeholderDisk is the size of disks that are not there, in bytes: what a template sees of every disk.
	placeholderDisk = 1 << 43
	// sector is the unit of a disk's size, in bytes.
	sector = 512
)

// shape is what a template's clones have in common beside what they boot.
type shape struct {
	memory  int64 // bytes
	cpus    int
	network bool // it has an interface
}

// shapeOf returns the machine for a sandbox's limits: the memory is the guest's in all, its kernel included.
func shapeOf(limits isolation.Limits, network isolation.Network) shape {
	memory := limits.Memory
	if memory <= 0 {
		memory = defaultMemory
	}
	memory = max(minMemory, (memory+memoryUnit-1)/memoryUnit*memoryUnit)
	cpus := runtime.NumCPU()
	if limits.CPUs > 0 {
		cpus = max(1, min(cpus, int(math.Ceil(limits.CPUs))))
	}
	return shape{memory, cpus, network.TapFile != nil}
}

// hostLimits are the limits of the QEMU process. The CPUs are set when the guest has started.
//
// A clone may be charged for its memory twice. It maps the template's memory file copy-on-write, and where that file has
// a hole the kernel fills the hole before it makes the copy (shmem_fault of Linux's mm/shmem.c). A filled hole serves all
// later clones, so each template takes at most one guest's memory in all; but one clone may be the first everywhere.
func (s shape) hostLimits() isolation.Limits {
	return isolation.Limits{Memory: 2*s.memory + qemuMemory, PIDs: int64(qemuThreads + s.cpus)}
}

// descriptors passes open files to a QEMU and numbers them as it will see them.
type descriptors struct {
	files []*os.File
}

const firstDescriptor = 3 // after the standard streams, as os/exec numbers ExtraFiles

func (d *descriptors) add(file *os.File) int {
	d.files = append(d.files, file)
	return firstDescriptor + len(d.files) - 1
}

// close closes our own copies.
func (d *descriptors) close() {
	for _, file := range d.files {
		_ = file.Close()
	}
	d.files = nil
}

// machine is everything that QEMU's command line says.
type machine struct {
	accel Accelerator
	shape shape
	boot  *boot
	// agent, monitor and console are numbers of inherited descriptors.
	agent, monitor, console int
	// disks are those of files; others are placeholders.
	disks map[string]int
	// writable is the size of the scratch disk in bytes, the largest file that QEMU may write; 0 if it has no job's disk.
	writable int64
	// tap is an inherited descriptor, or 0.
	tap int
	// memory is an inherited descriptor of a memory file, or 0 for anonymous memory; shared maps it as it is, for a
	// template to be saved, else it is copied on write.
	memory int
	shared bool
	// incoming makes it wait for a template's state instead of booting.
	incoming bool
}

// processorModel is all that the host's processor, or the emulator, can do, but for what no job needs and what has been the
// way out of machines: virtual machines in the machine (Intel's and AMD's) and the performance counters.
const processorModel = "max,+arat,vmx=off,svm=off,pmu=off"

// kernelCommandLine: no messages but a panic's, which ends the machine at once by a triple fault; no calibration
// against timers that an emulator cannot keep.
const kernelCommandLine = "quiet loglevel=1 panic=-1 reboot=t tsc=reliable no_timer_check cryptomgr.notests console=hvc0"

// diskOrder are a guest's disks, in the order of their devices.
var diskOrder = []string{agent.GuestImage, agent.GuestHelper, agent.GuestScratch}

// arguments is QEMU's command line. A template and its clones differ in their disks, network and memory alone.
func (m machine) arguments() []string {
	size := strconv.FormatInt(m.shape.memory, 10)
	arguments := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "none", "-parallel", "none",
		"-machine", "microvm,acpi=on,rtc=on,isa-serial=off,pic=off,pit=off,dump-guest-core=off,memory-backend=mem",
		"-accel", m.accelerator(), "-cpu", processorModel,
		"-m", "size=" + size + "B", "-smp", strconv.Itoa(m.shape.cpus),
		"-global", "virtio-mmio.force-legacy=false",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-object", m.memoryBackend(size),
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", m.monitor), "-mon", "chardev=monitor,mode=control",
		"-device", "virtio-serial-device,id=serial",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", m.agent), "-device", "virtserialport,bus=serial.0,nr=1,chardev=agent,name=" + agent.GuestPort,
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", m.console), "-device", "virtconsole,bus=serial.0,nr=2,chardev=console",
		"-kernel", bootMount + "/" + m.boot.Kernel, "-initrd", bootMount + "/" + m.boot.Initramfs, "-append", m.commandLine(),
	}
	for i, serial := range diskOrder {
		arguments = append(arguments, m.disk(i, serial)...)
	}
	if m.shape.network {
		backend := "hubport,id=net,hubid=0" // a template's: connected to nothing
		if m.tap != 0 {
			backend = fmt.Sprintf("tap,id=net,fd=%d,vhost=off", m.tap)
		}
		arguments = append(arguments, "-netdev", backend, "-device", "virtio-net-device,netdev=net,mac=02:00:00:00:00:00")
	}
	if m.incoming {
		arguments = append(arguments, "-incoming", "defer")
	}
	return arguments
}

func (m machine) commandLine() string {
	if m.accel == TCG {
		return fmt.Sprintf("%s tsc_early_khz=%d", kernelCommandLine, m.boot.tscKHz)
	}
	return kernelCommandLine
}

func (m machine) accelerator() string {
	if m.accel == KVM {
		return "kvm"
	}
	return fmt.Sprintf("tcg,tb-size=%d", translationBuffer)
}

func (m machine) memoryBackend(size string) string {
	if m.memory == 0 {
		return "memory-backend-ram,id=mem,size=" + size
	}
	share := "off"
	if m.shared {
		share = "on"
	}
	return fmt.Sprintf("memory-backend-file,id=mem,size=%s,mem-path=/proc/self/fd/%d,share=%s", size, m.memory, share)
}

// disk is one of the disks, which only the scratch's may be written. A host without space stops the machine, which is
// noticed; all else is the guest's to handle.
func (m machine) disk(number int, serial string) []string {
	node, set := map[string]any{
		"driver": "null-co", "node-name": serial, "size": int64(placeholderDisk), "read-zeroes": true, "read-only": serial != agent.GuestScratch,
	}, []string(nil)
	if fd, ok := m.disks[serial]; ok {
		set = []string{"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, number+1)}
		node = fileNode(serial, serial, number+1)
	}
	text, _ := json.Marshal(node) // it cannot fail for what is in there
	return append(set, "-blockdev", string(text),
		"-device", fmt.Sprintf("virtio-blk-device,id=%s,drive=%s,serial=%s,werror=enospc,rerror=report", deviceOf(serial), serial, serial))
}

// deviceOf is QEMU's name of a disk's device.
func deviceOf(serial string) string { return serial + "-disk" }

// fileNode describes a disk in a file of a descriptor set, as blockdev-add takes it.
func fileNode(serial, name string, set int) map[string]any {
	return map[string]any{
		"driver": "raw", "node-name": name, "read-only": serial != agent.GuestScratch, "discard": "unmap", "cache": map[string]any{"no-flush": true},
		"file": map[string]any{"driver": "file", "filename": fmt.Sprintf("/dev/fdset/%d", set), "locking": "off", "aio": "threads"},
	}
}
