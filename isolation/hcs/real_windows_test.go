package hcs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Microsoft/go-winio"
	"github.com/Microsoft/hcsshim/osversion"
	"github.com/Microsoft/hcsshim/pkg/ociwclayer"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/hcssim/layertar"
)

// These tests call the real hcsshim: on the simulator (wine_linux_test.go runs them there), or on a real Windows, where
// AIRLOCK_WINDOWS_LAYERS names the layers of an image, upper-most first, separated by semicolons.

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "tool" {
		os.Exit(conformance.WindowsTool(os.Args[2:]))
	}
	os.Exit(m.Run())
}

const testHome = `C:\ProgramData\AirlockTest`

// machine is a real host with a base.
type machine struct {
	home  string
	chain []string
}

func newMachine(t testing.TB) machine {
	t.Helper()
	m := machine{home: testHome}
	helper := filepath.Join(m.home, "helper")
	require.NoError(t, os.MkdirAll(helper, 0o700))
	if _, err := os.Stat(filepath.Join(helper, "tool.exe")); err != nil {
		self, err := os.Executable()
		require.NoError(t, err)
		program, err := os.ReadFile(self)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(helper, "tool.exe"), program, 0o700))
	}
	if given := os.Getenv("AIRLOCK_WINDOWS_LAYERS"); given != "" {
		m.chain = strings.Split(given, ";")
		return m
	}
	base, upper := filepath.Join(m.home, "layers", "base"), filepath.Join(m.home, "layers", "upper")
	if _, err := os.Stat(upper); err != nil {
		require.NoError(t, os.MkdirAll(filepath.Join(m.home, "layers"), 0o700))
		importTar(t, base, layertar.Base(layertar.BaseOptions{Build: int(osversion.Build()), UtilityVM: true, Files: map[string]string{"image/base.txt": "base"}}))
		importTar(t, upper, layertar.Upper(map[string]string{"image/upper.txt": "upper"}), base)
	}
	m.chain = []string{upper, base}
	return m
}

func importTar(t testing.TB, dir string, tar []byte, below ...string) {
	t.Helper()
	require.NoError(t, winio.RunWithPrivileges([]string{winio.SeBackupPrivilege, winio.SeRestorePrivilege, winio.SeSecurityPrivilege}, func() error {
		_, err := ociwclayer.ImportLayerFromTar(context.Background(), bytes.NewReader(tar), dir, below)
		return err
	}))
}

func (m machine) open(t testing.TB) *Host {
	t.Helper()
	h, err := Open(Options{
		Dir: filepath.Join(m.home, "hcs"), HelperDir: filepath.Join(m.home, "helper"), Logger: newTestLog(t),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

var lastReal int

func (m machine) spec(t testing.TB) isolation.Spec {
	t.Helper()
	lastReal++
	id := fmt.Sprintf("al-%d-%d", os.Getpid(), lastReal)
	scratch := filepath.Join(m.home, "scratch", id)
	require.NoError(t, os.MkdirAll(scratch, 0o700))
	t.Cleanup(func() { require.NoError(t, os.Remove(scratch)) })
	return isolation.Spec{
		ID: id, Hostname: "sandbox", ScratchDir: scratch,
		Image: isolation.Root{Layers: m.chain, Config: isolation.ImageConfig{Env: []string{"GREETING=image"}, OSVersion: osversion.Get().String()}},
	}
}

func (m machine) environment(t testing.TB, level isolation.Level) conformance.RuntimeEnv {
	t.Helper()
	env := conformance.RuntimeEnv{Windows: &conformance.Windows{Separate: os.Getenv("AIRLOCK_TEST_GUEST") != "shared"}}
	if os.Getenv("AIRLOCK_WINDOWS_LAYERS") == "" {
		env.Windows.ImageFile = `C:\image\base.txt`
	}
	env.New = func(t testing.TB) isolation.Runtime { return m.open(t).Runtime(level) }
	env.Spec = m.spec
	env.Leftovers = func(t testing.TB, id string) []string {
		t.Helper()
		var left []string
		names, err := (service{}).Systems(owner)
		require.NoError(t, err)
		for _, name := range names {
			if idOf(name) == id {
				left = append(left, "system "+name)
			}
		}
		for _, path := range []string{filepath.Join(m.home, "hcs", "sandboxes", id+".json"), filepath.Join(m.home, "scratch", id, "*")} {
			found, err := filepath.Glob(path)
			require.NoError(t, err)
			left = append(left, found...)
		}
		return left
	}
	env.BaseFingerprint = func(t testing.TB) string {
		t.Helper()
		sum := sha256.New()
		for _, layer := range m.chain {
			require.NoError(t, filepath.WalkDir(filepath.Join(layer, "Files", "image"), func(path string, entry fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil // a real image
				}
				if err != nil || entry.IsDir() {
					return err
				}
				text, err := os.ReadFile(path)
				fmt.Fprintf(sum, "%s %q\n", path, text)
				return err
			}))
		}
		return hex.EncodeToString(sum.Sum(nil))
	}
	return env
}

func TestRealProcessLevel(t *testing.T) {
	m := newMachine(t)
	conformance.TestRuntime(t, func(t testing.TB) conformance.RuntimeEnv { return m.environment(t, isolation.ProcessLevel) })
}

func TestRealHypervisorLevel(t *testing.T) {
	m := newMachine(t)
	conformance.TestRuntime(t, func(t testing.TB) conformance.RuntimeEnv { return m.environment(t, isolation.HypervisorLevel) })
}

// TestRealLife makes one sandbox at a level, runs a stage and destroys it: what the fault scenarios run.
func TestRealLife(t *testing.T) {
	m := newMachine(t)
	n, err := strconv.Atoi(os.Getenv("AIRLOCK_TEST_LEVEL"))
	require.NoError(t, err)
	spec := m.spec(t)
	made, err := m.open(t).Runtime(isolation.Level(n)).Create(t.Context(), spec)
	if want := os.Getenv("AIRLOCK_TEST_FAILS"); want != "" {
		require.ErrorContains(t, err, want)
		return
	}
	require.NoError(t, err)
	p, err := made.Start(t.Context(), isolation.ProcessSpec{Script: []byte("@exit 7\r\n"), Shell: "cmd"})
	require.NoError(t, err)
	exit, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, 7, exit.Code)
	require.NoError(t, made.Destroy(t.Context()))
}

// TestRealCrash makes a sandbox and ends the process without a word.
func TestRealCrash(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t)
	_, err := m.open(t).Runtime(isolation.ProcessLevel).Create(t.Context(), spec)
	require.NoError(t, err)
	fmt.Println("made", spec.ID)
	os.Exit(3)
}

// TestRealSweep is the start after that.
func TestRealSweep(t *testing.T) {
	m := newMachine(t)
	h := m.open(t)
	<-h.Sweep()
	ids, err := h.Runtime(isolation.ProcessLevel).List(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	left, err := filepath.Glob(filepath.Join(m.home, "scratch", "*", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.Eventually(t, func() bool {
		left, err := os.ReadDir(h.trashDir())
		return err == nil && len(left) == 0
	}, time.Minute, 50*time.Millisecond, "what is denied is tried again")
}

// TestRealFits compares our rule with hcsshim's, for every pair of builds that there is a release of.
func TestRealFits(t *testing.T) {
	builds := []uint16{14393, 16299, 17134, 17763, 18362, 19041, 19045, 20348, 22000, 22621, 25398, 26100, 26200, 28000}
	for _, host := range builds {
		for _, image := range builds {
			want := osversion.CheckHostAndContainerCompat(
				osversion.OSVersion{MajorVersion: 10, Build: host}, osversion.OSVersion{MajorVersion: 10, Build: image})
			fits, _ := Fits(isolation.ProcessLevel, Version{Major: 10, Build: uint32(host)}, fmt.Sprintf("10.0.%d.1", image))
			require.Equal(t, want, fits, "image %d on host %d", image, host)
		}
	}
}
