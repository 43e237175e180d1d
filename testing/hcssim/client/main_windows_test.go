package client

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	winio "github.com/Microsoft/go-winio"
	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/pkg/ociwclayer"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/testing/hcssim/layertar"
)

// home is where layers and scratches are.
const home = `C:\ProgramData\hcssim-test`

// hostBuild is that of the machines that the tests of package hcssim start.
const hostBuild = 20348

// patience bounds waits for what takes milliseconds.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard)
	if len(os.Args) > 1 && os.Args[1] == "child" {
		os.Exit(beChild(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// tools is a directory of the host that containers see, read-only, as inside; it holds this very program.
const (
	tools  = home + `\tools`
	inside = `C:\tools`
)

// muchOutput is more than any pipe holds, in bytes.
const muchOutput = 4 << 20

// child is the command line of this program in a container, for what Wine's own programs cannot do.
func child(args string) hcsshim.ProcessConfig {
	return hcsshim.ProcessConfig{CommandLine: inside + `\child.exe child ` + args}
}

// beChild is what it does there.
func beChild(args []string) int {
	switch args[0] {
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "much":
		for range muchOutput / 1024 {
			os.Stdout.Write(bytes.Repeat([]byte("x"), 1024))
		}
	case "sleep":
		os.Stdout.WriteString("asleep\n")
		time.Sleep(time.Hour)
	case "grandchild": // starts one that holds the output, and ends
		os.StartProcess(os.Args[0], []string{os.Args[0], "child", "sleep"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	case "write":
		if err := os.WriteFile(args[1], []byte("written"), 0o666); err != nil {
			os.Stdout.WriteString(err.Error())
			return 1
		}
	case "read":
		text, err := os.ReadFile(args[1])
		if err != nil {
			os.Stdout.WriteString("missing")
			return 1
		}
		os.Stdout.Write(text)
	}
	return 0
}

// installTools puts this program where child finds it.
func installTools(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(tools + `\child.exe`); err == nil {
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	program, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(tools, 0o777))
	require.NoError(t, os.WriteFile(tools+`\child.exe`, program, 0o777))
}

func mapped() []hcsshim.MappedDir {
	return []hcsshim.MappedDir{{HostPath: tools, ContainerPath: inside, ReadOnly: true}}
}

// importLayer imports a layer as the product does: with the privileges, upper-most parent first.
func importLayer(t *testing.T, name string, layer []byte, parents ...string) string {
	t.Helper()
	dir := filepath.Join(home, name)
	err := winio.RunWithPrivileges([]string{winio.SeBackupPrivilege, winio.SeRestorePrivilege, winio.SeSecurityPrivilege}, func() error {
		_, err := ociwclayer.ImportLayerFromTar(context.Background(), bytes.NewReader(layer), dir, parents)
		return err
	})
	require.NoError(t, err)
	return dir
}

// image imports a base and an upper layer, and returns the chain.
func image(t *testing.T) []string {
	t.Helper()
	installTools(t)
	base := filepath.Join(home, "base")
	upper := filepath.Join(home, "upper")
	if _, err := os.Stat(upper); err == nil {
		return []string{upper, base} // an earlier test of this machine has
	}
	importLayer(t, "base", layertar.Base(layertar.BaseOptions{
		Build: hostBuild, UtilityVM: true, Files: map[string]string{"image/base.txt": "base", "image/both.txt": "base"},
	}))
	importLayer(t, "upper", layertar.Upper(map[string]string{"image/upper.txt": "upper", "image/both.txt": "upper"}, "image/base.txt"), base)
	return []string{upper, base}
}

func layersOf(t *testing.T, chain []string) []hcsshim.Layer {
	t.Helper()
	var layers []hcsshim.Layer
	for _, dir := range chain {
		id, err := hcsshim.NameToGuid(filepath.Base(dir))
		require.NoError(t, err)
		layers = append(layers, hcsshim.Layer{ID: id.ToString(), Path: dir})
	}
	return layers
}

// scratch makes a scratch, which the test removes.
func scratch(t *testing.T, id string, chain []string) hcsshim.DriverInfo {
	t.Helper()
	di := hcsshim.DriverInfo{HomeDir: home, Flavour: 1}
	require.NoError(t, hcsshim.CreateScratchLayer(di, id, "", chain))
	t.Cleanup(func() { require.NoError(t, hcsshim.DestroyLayer(di, id)) })
	return di
}

// mount mounts a scratch and returns its volume, without a backslash; the test unmounts it.
func mount(t *testing.T, di hcsshim.DriverInfo, id string, chain []string) string {
	t.Helper()
	require.NoError(t, hcsshim.ActivateLayer(di, id))
	t.Cleanup(func() { require.NoError(t, hcsshim.DeactivateLayer(di, id)) })
	require.NoError(t, hcsshim.PrepareLayer(di, id, chain))
	t.Cleanup(func() { require.NoError(t, hcsshim.UnprepareLayer(di, id)) })
	volume, err := hcsshim.GetLayerMountPath(di, id)
	require.NoError(t, err)
	return strings.TrimSuffix(volume, `\`)
}

// argon and xenon return the documents of containers.
func argon(t *testing.T, id, volume string, chain []string) *hcsshim.ContainerConfig {
	return &hcsshim.ContainerConfig{
		SystemType: "Container", Name: id, Owner: "airlock", VolumePath: volume, LayerFolderPath: filepath.Join(home, id),
		Layers: layersOf(t, chain), IgnoreFlushesDuringBoot: true, TerminateOnLastHandleClosed: true,
		MemoryMaximumInMB: 512, ProcessorMaximum: 5000, MappedDirectories: mapped(),
	}
}

func xenon(t *testing.T, id string, chain []string) *hcsshim.ContainerConfig {
	return &hcsshim.ContainerConfig{
		SystemType: "Container", Name: id, Owner: "airlock", LayerFolderPath: filepath.Join(home, id), Layers: layersOf(t, chain),
		HvPartition: true, HvRuntime: &hcsshim.HvRuntime{ImagePath: filepath.Join(chain[len(chain)-1], "UtilityVM"), SkipTemplate: true},
		IgnoreFlushesDuringBoot: true, TerminateOnLastHandleClosed: true, MemoryMaximumInMB: 1024, ProcessorCount: 2, MappedDirectories: mapped(),
	}
}

// startArgon starts a process container, which the test ends.
func startArgon(t *testing.T, id string) hcsshim.Container {
	t.Helper()
	chain := image(t)
	di := scratch(t, id, chain)
	return start(t, id, argon(t, id, mount(t, di, id, chain), chain))
}

func startXenon(t *testing.T, id string) hcsshim.Container {
	t.Helper()
	chain := image(t)
	scratch(t, id, chain)
	return start(t, id, xenon(t, id, chain))
}

func start(t *testing.T, id string, config *hcsshim.ContainerConfig) hcsshim.Container {
	t.Helper()
	c, err := hcsshim.CreateContainer(id, config)
	require.NoError(t, err)
	t.Cleanup(func() { terminate(t, c) })
	require.NoError(t, c.Start())
	return c
}

// terminate ends a container as the product does: Terminate answers "pending", always.
func terminate(t *testing.T, c hcsshim.Container) {
	t.Helper()
	if err := c.Terminate(); hcsshim.IsPending(err) {
		if err := c.WaitTimeout(patience); !hcsshim.IsAlreadyClosed(err) {
			require.NoError(t, err)
		}
	} else {
		require.NoError(t, err)
	}
	require.NoError(t, c.Close())
}

// run runs a command line to its end, and returns its output and exit code.
func run(t *testing.T, c hcsshim.Container, config hcsshim.ProcessConfig, stdin string) (stdout, stderr string, code int) {
	t.Helper()
	config.CreateStdInPipe, config.CreateStdOutPipe, config.CreateStdErrPipe = true, true, true
	p, err := c.CreateProcess(&config)
	require.NoError(t, err)
	defer p.Close()
	in, out, errs, err := p.Stdio()
	require.NoError(t, err)
	ended := make(chan string, 2)
	go func() { text, _ := io.ReadAll(out); ended <- "1" + string(text) }()
	go func() { text, _ := io.ReadAll(errs); ended <- "2" + string(text) }()
	io.WriteString(in, stdin)
	in.Close()
	if err := p.CloseStdin(); err != nil && !hcsshim.IsNotExist(err) && !hcsshim.IsAlreadyClosed(err) {
		t.Logf("closing stdin of a process that has ended: %v", err)
	}
	require.NoError(t, p.WaitTimeout(patience))
	for range 2 {
		if text := <-ended; text[0] == '1' {
			stdout = strings.ReplaceAll(text[1:], "\r\n", "\n")
		} else {
			stderr = strings.ReplaceAll(text[1:], "\r\n", "\n")
		}
	}
	out.Close()
	errs.Close()
	code, err = p.ExitCode()
	require.NoError(t, err)
	return stdout, stderr, code
}

func cmd(line string) hcsshim.ProcessConfig {
	return hcsshim.ProcessConfig{CommandLine: "cmd /c " + line}
}

// hcsError is the error behind a layer's, whose chain errors.Is does not follow.
func hcsError(t *testing.T, err error) windows.Errno {
	t.Helper()
	var e *hcsshim.HcsError
	require.ErrorAs(t, err, &e)
	var number windows.Errno
	require.ErrorAs(t, e.Err, &number)
	return number
}
