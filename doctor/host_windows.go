package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/isolation"
)

// checkHost makes the checks of a Windows host.
func checkHost(_ context.Context, r *report, _ Options, cfg *config.Config) {
	checkUser(r)
	checkBuild(r)
	checkComputeService(r)
	checkHyperV(r, cfg)
	checkVolume(r, cfg)
	checkScanner(r, cfg)
	checkHelperDir(r, cfg)
}

func checkUser(r *report) {
	if windows.GetCurrentProcessToken().IsElevated() {
		r.ok("user", "an administrator")
		return
	}
	r.warn("user", "run airlock doctor as an administrator to have every check", "no administrator: some checks see less")
}

// oldestBuild is Windows Server 2019's.
const oldestBuild = 17763

func checkBuild(r *report) {
	const check = "build"
	v := windows.RtlGetVersion()
	switch {
	case v.BuildNumber < oldestBuild:
		r.fail(check, "use Windows Server 2019 or newer", "Windows %d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
	case v.ProductType == productWorkstation:
		r.warn(check, "use Windows Server", "Windows %d.%d.%d, an edition for workstations, whose licence and defaults for containers differ",
			v.MajorVersion, v.MinorVersion, v.BuildNumber)
	default:
		r.ok(check, "Windows %d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
	}
}

// productWorkstation is VER_NT_WORKSTATION.
const productWorkstation = 1

// serviceState is what the service control manager says about one of the system's services.
type serviceState int

const (
	serviceAbsent serviceState = iota
	serviceStopped
	serviceRunning
)

func stateOf(name string) (serviceState, error) {
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT)
	if err != nil {
		return 0, err
	}
	defer func() { _ = windows.CloseServiceHandle(manager) }()
	path, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return 0, err
	}
	service, err := windows.OpenService(manager, path, windows.SERVICE_QUERY_STATUS)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return serviceAbsent, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = windows.CloseServiceHandle(service) }()
	var status windows.SERVICE_STATUS
	if err := windows.QueryServiceStatus(service, &status); err != nil {
		return 0, err
	}
	if status.CurrentState == windows.SERVICE_RUNNING {
		return serviceRunning, nil
	}
	return serviceStopped, nil
}

// checkComputeService looks for the two services without which there are no containers.
func checkComputeService(r *report) {
	for _, service := range []struct{ check, name, title string }{
		{"compute service", "vmcompute", "the Host Compute Service"},
		{"network service", "hns", "the Host Networking Service"},
	} {
		state, err := stateOf(service.name)
		switch {
		case err != nil:
			r.fail(service.check, "run airlock doctor as an administrator", "%s cannot be asked for: %v", service.title, err)
		case state == serviceAbsent:
			r.fail(service.check, "install the feature (Install-WindowsFeature Containers) and restart the host",
				"%s (%s) is not installed", service.title, service.name)
		case state == serviceStopped:
			r.fail(service.check, "start it: Start-Service "+service.name, "%s (%s) does not run", service.title, service.name)
		default:
			r.ok(service.check, "%s runs", service.title)
		}
	}
}

// checkHyperV looks for what Hyper-V containers need. Where the configuration asks for them, what is missing is a
// failure; else a fact, unless an image does not fit the host's kernel and would need them.
func checkHyperV(r *report, cfg *config.Config) {
	const check = "Hyper-V"
	missing := func(remedy, detail string) {
		if slices.Contains(cfg.Levels(), isolation.HypervisorLevel) {
			r.fail(check, remedy, "%s", detail)
			return
		}
		r.info(check, "%s; only images of other builds of Windows, and jobs that ask for it, need it", detail)
	}
	manager, managerErr := stateOf("vmms")
	hypervisor, hypervisorErr := stateOf("HvHost")
	switch {
	case managerErr != nil || hypervisorErr != nil:
		missing("run airlock doctor as an administrator", "it cannot be asked for")
	case manager == serviceAbsent && !windows.IsProcessorFeaturePresent(windows.PF_VIRT_FIRMWARE_ENABLED):
		missing("enable virtualisation in the firmware, or on a virtual host nested virtualisation (Set-VMProcessor -ExposeVirtualizationExtensions $true); then Install-WindowsFeature Hyper-V",
			"it is not installed, and the processor shows no virtualisation to Windows")
	case manager == serviceAbsent:
		missing("install the feature (Install-WindowsFeature Hyper-V) and restart the host", "it is not installed")
	case hypervisor != serviceRunning:
		missing("enable virtualisation in the firmware, or on a virtual host nested virtualisation (Set-VMProcessor -ExposeVirtualizationExtensions $true)",
			"it is installed, but the hypervisor does not run")
	default:
		r.ok(check, "the hypervisor runs")
	}
}

// What the volume of state_dir should have free: below the first not one image of Windows fits, below the second few.
const (
	tooLittleSpace = 10 << 30
	littleSpace    = 50 << 30
)

func checkVolume(r *report, cfg *config.Config) {
	const check = "state_dir"
	volume := filepath.VolumeName(cfg.StateDir) + `\`
	path, err := windows.UTF16PtrFromString(volume)
	if err != nil {
		r.fail(check, "name another state_dir", "%v", err)
		return
	}
	var name [windows.MAX_PATH + 1]uint16
	var free, total uint64
	err = windows.GetVolumeInformation(path, nil, 0, nil, nil, nil, &name[0], uint32(len(name)))
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(path, &free, &total, nil)
	}
	if err != nil {
		r.fail(check, "make the volume accessible", "%s: %v", volume, err)
		return
	}
	minFree, _ := cfg.Cache.MinFree(int64(total), 0)
	system, gib := windows.UTF16ToString(name[:]), float64(free)/(1<<30)
	switch {
	case strings.EqualFold(system, "ReFS"):
		r.fail(check, "set state_dir to a directory on NTFS", "%s is on ReFS, which cannot hold layers of Windows images", cfg.StateDir)
	case !strings.EqualFold(system, "NTFS"):
		r.fail(check, "set state_dir to a directory on NTFS", "%s is on %s, which cannot hold layers of Windows images", cfg.StateDir, system)
	case free < tooLittleSpace:
		r.fail(check, "free some space, or name a larger volume with state_dir", "%s has %.1f GiB free", cfg.StateDir, gib)
	case free < uint64(minFree):
		r.fail(check, "free some space, or lower min_free_space in [cache]",
			"%s has %.1f GiB free, and pulls leave %.1f GiB: no image can be pulled", cfg.StateDir, gib, float64(minFree)/(1<<30))
	case free < littleSpace:
		r.warn(check, "free some space, or set disk_limit in [cache] below it", "%s has %.1f GiB free: images of Windows are large", cfg.StateDir, gib)
	default:
		r.ok(check, "%s has %.1f GiB free (NTFS)", cfg.StateDir, gib)
	}
}

// exclusionKeys are where Defender keeps the directories that it leaves alone.
var exclusionKeys = []string{
	`SOFTWARE\Microsoft\Windows Defender\Exclusions\Paths`, `SOFTWARE\Policies\Microsoft\Windows Defender\Exclusions\Paths`,
}

// checkScanner warns of a virus scanner on state_dir: it makes images and jobs several times slower, and holds scratches
// that are to be deleted.
func checkScanner(r *report, cfg *config.Config) {
	const check = "virus scanner"
	state, err := stateOf("WinDefend")
	if err != nil || state != serviceRunning {
		r.info(check, "Microsoft Defender does not run; exclude %s from any other scanner", cfg.StateDir)
		return
	}
	var excluded []string
	for _, path := range exclusionKeys {
		key, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE)
		if err != nil {
			continue
		}
		names, err := key.ReadValueNames(0)
		_ = key.Close()
		if err == nil {
			excluded = append(excluded, names...)
		}
	}
	if !covered(excluded, cfg.StateDir) {
		r.warn(check, `exclude it: Add-MpPreference -ExclusionPath "`+cfg.StateDir+`"`,
			"Microsoft Defender looks at %s: images and jobs are several times slower, and scratches are slow to go", cfg.StateDir)
		return
	}
	r.ok(check, "Microsoft Defender leaves %s alone", cfg.StateDir)
}

// covered says whether dir is one of the excluded directories, or in one.
func covered(excluded []string, dir string) bool {
	dir = strings.ToLower(filepath.Clean(dir))
	for _, path := range excluded {
		path = strings.ToLower(filepath.Clean(path))
		if dir == path || strings.HasPrefix(dir, strings.TrimSuffix(path, `\`)+`\`) {
			return true
		}
	}
	return false
}

func checkHelperDir(r *report, cfg *config.Config) {
	const check = "helper_dir"
	dir := cfg.Windows.HelperDir
	if dir == "" {
		r.warn(check, "set helper_dir in [windows] to a directory with MinGit and gitlab-runner.exe",
			"none: images have to have git and gitlab-runner, or sources, caches and artifacts do not work")
		return
	}
	for _, name := range []string{"gitlab-runner.exe", filepath.Join("git", "cmd", "git.exe")} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			r.fail(check, "put it there", "%v", err)
			return
		}
	}
	r.ok(check, "%s", dir)
}
