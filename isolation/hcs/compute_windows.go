package hcs

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/Microsoft/go-winio/vhd"
	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/osversion"
	"github.com/rs/zerolog"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Open returns the host's compute service. Its errors are of class admin and name the remedy.
func Open(opts Options) (*Host, error) {
	if opts.Host == (Version{}) {
		opts.Host = HostVersion()
	}
	if opts.CPUs == 0 {
		opts.CPUs = runtime.NumCPU()
	}
	divertLogs(opts.Logger)
	if _, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{owner}}); err != nil {
		return nil, fault.WithRemedy(fault.Adminf("the Host Compute Service does not answer: %w: %w", isolation.ErrUnsupported, err),
			"install the feature Containers (Install-WindowsFeature Containers), restart the host, and see that the service vmcompute runs")
	}
	return open(opts, service{}, usualTiming())
}

// The service's own timeout of Start is set below ours by the environment (see Environment), so that it answers first.
func usualTiming() timing {
	return timing{
		call: 4*time.Minute + 10*time.Second, create: 100 * time.Second, start: 100 * time.Second, end: 30 * time.Second,
		setup: time.Minute, pause: 100 * time.Millisecond,
		dispose: []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, time.Minute},
		drain:   10 * time.Second, settling: 2 * time.Second,
	}
}

// HostVersion is this host's version of Windows. The revision is 0 when the registry does not tell it.
func HostVersion() Version {
	v := osversion.Get()
	revision, err := osversion.BuildRevision()
	if err != nil {
		revision = 0
	}
	return Version{uint32(v.MajorVersion), uint32(v.MinorVersion), uint32(v.Build), revision}
}

// divertLogs takes what hcsshim tells the process-wide logger of logrus into ours: warnings and errors, as debug
// events, because callers get them as errors too.
func divertLogs(log zerolog.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.WarnLevel)
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(logHook{log})
}

type logHook struct{ log zerolog.Logger }

func (logHook) Levels() []logrus.Level { return logrus.AllLevels[:logrus.WarnLevel+1] }

func (h logHook) Fire(entry *logrus.Entry) error {
	h.log.Debug().Str("component", "hcsshim").Str("said_at", entry.Level.String()).Msg(entry.Message)
	return nil
}

// service is the real compute service.
type service struct{}

var _ compute = service{}

// at splits a layer's directory as hcsshim wants it; the flavour means nothing to it.
func at(dir string) (hcsshim.DriverInfo, string) {
	return hcsshim.DriverInfo{HomeDir: filepath.Dir(dir), Flavour: 1}, filepath.Base(dir)
}

func (service) CreateScratch(dir string, chain []string) error {
	info, id := at(dir)
	return classify("CreateScratchLayer", hcsshim.CreateScratchLayer(info, id, "", chain))
}

func (service) ExpandScratch(dir string, bytes int64) error {
	info, id := at(dir)
	return classify("ExpandScratchSize", hcsshim.ExpandScratchSize(info, id, uint64(bytes)))
}

func (service) Activate(dir string) error {
	return classify("ActivateLayer", hcsshim.ActivateLayer(at(dir)))
}

func (service) Prepare(dir string, chain []string) error {
	info, id := at(dir)
	return classify("PrepareLayer", hcsshim.PrepareLayer(info, id, chain))
}

func (service) VolumePath(dir string) (string, error) {
	path, err := hcsshim.GetLayerMountPath(at(dir))
	return path, classify("GetLayerMountPath", err)
}

func (service) Unprepare(dir string) error {
	return classify("UnprepareLayer", hcsshim.UnprepareLayer(at(dir)))
}

func (service) Deactivate(dir string) error {
	return classify("DeactivateLayer", hcsshim.DeactivateLayer(at(dir)))
}

func (service) DestroyLayer(dir string) error {
	return classify("DestroyLayer", hcsshim.DestroyLayer(at(dir)))
}

func (service) DetachDisk(path string) error {
	return classify("DetachVirtualDisk", vhd.DetachVhd(path))
}

func (service) Rename(from, to string) error { return classify("Rename", os.Rename(from, to)) }

// scriptAccess lets the system and administrators do everything, and the two users of every container (S-1-5-93-2-1
// is ContainerAdministrator, S-1-5-93-2-2 ContainerUser) read.
const scriptAccess = "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;GRGX;;;S-1-5-93-2-1)(A;;GRGX;;;S-1-5-93-2-2)"

func (service) ShareScript(path string) error {
	descriptor, err := windows.SecurityDescriptorFromString(scriptAccess)
	if err != nil {
		return classify("ShareScript", err)
	}
	acl, _, err := descriptor.DACL()
	if err != nil {
		return classify("ShareScript", err)
	}
	return classify("ShareScript", windows.SetNamedSecurityInfo(path, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, acl, nil))
}

func (service) LayerID(dir string) (string, error) {
	guid, err := hcsshim.NameToGuid(filepath.Base(dir))
	return guid.ToString(), classify("NameToGuid", err)
}

func (service) Systems(owner string) ([]string, error) {
	list, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{owner}})
	if err != nil {
		return nil, classify("EnumerateComputeSystems", err)
	}
	var names []string
	for _, c := range list {
		// One that has stopped is listed for as long as somebody has a handle of it, and holds nothing any more.
		if c.Owner == owner && !c.IsRuntimeTemplate && !c.Stopped && c.State != "Stopped" {
			names = append(names, c.ID)
		}
	}
	return names, nil
}

func (service) Create(id string, d Document) (system, error) {
	config := &hcsshim.ContainerConfig{
		SystemType: "Container", Name: id, Owner: d.Owner, HostName: d.HostName,
		LayerFolderPath: d.Scratch, VolumePath: d.Volume,
		MemoryMaximumInMB: d.MemoryMB, ProcessorCount: d.ProcessorCount, ProcessorMaximum: d.ProcessorMaximum,
		EndpointList: d.Endpoints, DNSSearchList: d.DNSSearch,
		// The container ends with this process, whatever becomes of it.
		TerminateOnLastHandleClosed: true,
		IgnoreFlushesDuringBoot:     true,
	}
	for _, l := range d.Layers {
		config.Layers = append(config.Layers, hcsshim.Layer{ID: l.ID, Path: l.Path})
	}
	for _, m := range d.Mapped {
		config.MappedDirectories = append(config.MappedDirectories, hcsshim.MappedDir{HostPath: m.Host, ContainerPath: m.Container, ReadOnly: m.ReadOnly})
	}
	if d.UtilityVM != "" {
		config.HvPartition = true
		config.HvRuntime = &hcsshim.HvRuntime{ImagePath: d.UtilityVM, SkipTemplate: d.SkipTemplate}
	}
	made, err := hcsshim.CreateContainer(id, config)
	if err != nil {
		return nil, classify("CreateComputeSystem", err)
	}
	return container{made}, nil
}

func (service) Open(id string) (system, error) {
	found, err := hcsshim.OpenContainer(id)
	if err != nil {
		return nil, classify("OpenComputeSystem", err)
	}
	return container{found}, nil
}

// container is a real compute system.
type container struct{ c hcsshim.Container }

func (c container) Start() error { return classify("StartComputeSystem", c.c.Start()) }

// Terminate takes for success what hcsshim calls an error: that the operation is pending.
func (c container) Terminate() error {
	err := c.c.Terminate()
	if hcsshim.IsPending(err) || hcsshim.IsAlreadyStopped(err) || hcsshim.IsAlreadyClosed(err) {
		return nil
	}
	return classify("TerminateComputeSystem", err)
}

func (c container) Wait() error { return classify("waiting for the container", c.c.Wait()) }

func (c container) Close() error { return classify("CloseComputeSystem", c.c.Close()) }

func (c container) CreateProcess(d processDocument) (process, error) {
	made, err := c.c.CreateProcess(&hcsshim.ProcessConfig{
		CommandLine: d.CommandLine, WorkingDirectory: d.Directory, User: d.User, Environment: d.Environment,
		CreateStdInPipe: true, CreateStdOutPipe: true, CreateStdErrPipe: !d.Console,
		EmulateConsole: d.Console, ConsoleSize: [2]uint{uint(d.Rows), uint(d.Columns)},
	})
	if err != nil {
		return nil, classify("CreateProcess", err)
	}
	return program{made}, nil
}

func (c container) Kill(pid int) error {
	p, err := c.c.OpenProcess(pid)
	if err != nil {
		return classify("OpenProcess", err)
	}
	return errors.Join(classify("TerminateProcess", p.Kill()), classify("CloseProcess", p.Close()))
}

func (c container) Processes() ([]processInfo, error) {
	list, err := c.c.ProcessList()
	if err != nil {
		return nil, classify("listing processes", err)
	}
	infos := make([]processInfo, 0, len(list))
	for _, item := range list {
		infos = append(infos, processInfo{PID: int(item.ProcessId), Image: item.ImageName, Created: item.CreateTimestamp})
	}
	return infos, nil
}

func (c container) Statistics() (statistics, error) {
	s, err := c.c.Statistics()
	if err != nil {
		return statistics{}, classify("reading statistics", err)
	}
	return statistics{
		Memory: int64(s.Memory.UsageCommitBytes), CPU: time.Duration(s.Processor.TotalRuntime100ns) * 100 * time.Nanosecond,
	}, nil
}

// program is a real process.
type program struct{ p hcsshim.Process }

func (p program) PID() int { return p.p.Pid() }

func (p program) Stdio() (io.WriteCloser, io.ReadCloser, io.ReadCloser, error) {
	stdin, stdout, stderr, err := p.p.Stdio()
	return stdin, stdout, stderr, classify("connecting to a process", err)
}

// CloseStdin has nothing to tell a process that has ended.
func (p program) CloseStdin() error {
	err := p.p.CloseStdin()
	if hcsshim.IsNotExist(err) || hcsshim.IsAlreadyClosed(err) || hcsshim.IsAlreadyStopped(err) || hcsshim.IsOperationInvalidState(err) {
		return nil
	}
	return classify("CloseStdin", err)
}

func (p program) Wait() error { return classify("waiting for a process", p.p.Wait()) }

func (p program) ExitCode() (int, error) {
	code, err := p.p.ExitCode()
	return code, classify("reading a status", err)
}

// Kill has nothing to do for a process that has ended: hcsshim says then that there is none.
func (p program) Kill() error {
	err := p.p.Kill()
	if hcsshim.IsNotExist(err) || hcsshim.IsAlreadyStopped(err) || hcsshim.IsAlreadyClosed(err) {
		return nil
	}
	return classify("TerminateProcess", err)
}

func (p program) Resize(rows, columns uint16) error {
	return classify("ResizeConsole", p.p.ResizeConsole(columns, rows))
}

func (p program) Close() error { return classify("CloseProcess", p.p.Close()) }

// classify makes a callError of hcsshim's errors. Its containers' and processes' errors do not unwrap, so errors.Is
// finds nothing in them, and its own helpers find nothing in a wrapped one: this is the only place that looks.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	inner := err
	var systemErr *hcsshim.ContainerError
	var processErr *hcsshim.ProcessError
	switch {
	case errors.As(err, &systemErr):
		inner = systemErr.Err
	case errors.As(err, &processErr):
		inner = processErr.Err
	}
	switch {
	case errors.Is(inner, hcsshim.ErrTimeout),
		// hcsshim's word for a call of these two that itself does not return.
		errors.Is(inner, context.DeadlineExceeded) && (op == "CreateComputeSystem" || op == "StartComputeSystem"):
		return newCallError(op, 0, errors.Join(errNoAnswer, err))
	case errors.Is(inner, hcsshim.ErrUnexpectedProcessAbort):
		return newCallError(op, 0, errors.Join(errServiceLost, err))
	case errors.Is(inner, hcsshim.ErrUnexpectedContainerExit):
		return newCallError(op, codeUnexpectedExit, err)
	}
	var layerErr *hcsshim.HcsError
	if errors.As(inner, &layerErr) {
		inner = layerErr.Err
	}
	var code windows.Errno
	if errors.As(inner, &code) {
		return newCallError(op, uint32(code), err)
	}
	return newCallError(op, 0, err)
}
