package hcs

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

func TestDocument(t *testing.T) {
	r := newRig(t)
	spec := r.spec()
	spec.Limits = isolation.Limits{Memory: 1<<30 + 1, CPUs: 1.5, Scratch: 30 << 30}
	spec.Network = isolation.Network{Endpoints: []string{"endpoint-1"}, Search: []string{"example.org", "example.com"}}
	spec.CacheDir = t.TempDir()
	b := r.create(isolation.ProcessLevel, spec)
	doc := r.fake.systems[b.name].document
	want := Document{
		Owner: "airlock", HostName: "sandbox", Scratch: filepath.Join(spec.ScratchDir, b.name), Volume: `\\?\Volume{` + b.name + `}`,
		MemoryMB: 1025, ProcessorMaximum: 1875, Endpoints: []string{"endpoint-1"}, DNSSearch: "example.org,example.com",
		Mapped: []MappedDir{
			{Host: filepath.Join(spec.ScratchDir, "scripts"), Container: `C:\airlock\scripts`, ReadOnly: true},
			{Host: filepath.Join(r.dir, "helper"), Container: `C:\airlock\helper`, ReadOnly: true},
			{Host: spec.CacheDir, Container: `C:\cache`},
		},
		Layers: []LayerRef{{"guid-of-app", r.base[0]}, {"guid-of-patch", r.base[1]}, {"guid-of-base", r.base[2]}},
	}
	require.Equal(t, want, doc)
	require.EqualValues(t, 30<<30, r.fake.layers[want.Scratch].size)

	machine := r.spec()
	machine.Limits = isolation.Limits{CPUs: 1.5}
	m := r.create(isolation.HypervisorLevel, machine)
	doc = r.fake.systems[m.name].document
	require.Empty(t, doc.Volume, "the scratch of a machine is not mounted here")
	require.Equal(t, filepath.Join(r.base[1], "UtilityVM"), doc.UtilityVM, "the upper-most one")
	require.True(t, doc.SkipTemplate)
	require.EqualValues(t, 2, doc.ProcessorCount)
	require.EqualValues(t, 7500, doc.ProcessorMaximum)
	require.Zero(t, r.fake.count("Activate "+machine.ID))
}

func TestProcessors(t *testing.T) {
	h := &Host{opts: Options{CPUs: 8}}
	for _, test := range []struct {
		level          isolation.Level
		cpus           float64
		count, maximum int64
	}{
		{isolation.ProcessLevel, 0, 0, 0}, {isolation.ProcessLevel, 8, 0, 0}, {isolation.ProcessLevel, 2, 0, 2500},
		{isolation.ProcessLevel, 0.0001, 0, 1}, {isolation.HypervisorLevel, 0, 8, 0}, {isolation.HypervisorLevel, 2, 2, 0},
		{isolation.HypervisorLevel, 0.25, 1, 2500}, {isolation.HypervisorLevel, 99, 8, 0},
	} {
		var doc Document
		h.Runtime(test.level).processors(&doc, test.cpus)
		require.EqualValues(t, test.count, doc.ProcessorCount, test)
		require.Equal(t, test.maximum, doc.ProcessorMaximum, test)
		require.False(t, test.level == isolation.ProcessLevel && doc.ProcessorCount > 0 && doc.ProcessorMaximum > 0)
	}
}

func TestCommandLines(t *testing.T) {
	for want, args := range map[string][]string{
		`cmd.exe`:                         nil,
		`tool "" "a b" $HOME "say \"x\""`: {"tool", "", "a b", "$HOME", `say "x"`},
		`tool "C:\with space\\" C:\none\`: {"tool", `C:\with space\`, `C:\none\`},
		`tool "\\\" "`:                    {"tool", `\" `},
		`cmd /c echo "a b" & exit 3`:      {"cmd", "/c", `echo "a b" & exit 3`},
		`C:\Windows\cmd.exe /c a|b`:       {`C:\Windows\cmd.exe`, "/c", "a|b"},
	} {
		require.Equal(t, want, commandLine(args))
	}
}

func TestEnvironment(t *testing.T) {
	require.Equal(t, map[string]string{"PATH": "two", "A": "1", "B": "x=y"},
		environment([]string{"Path=one", "A=1", "=C:=C:\\", "junk"}, []string{"PATH=two", "B=x=y"}))
}

// run runs a script to its end.
func run(t *testing.T, b *sandbox, spec isolation.ProcessSpec) (isolation.Exit, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	spec.Stdout, spec.Stderr = &stdout, &stderr
	p, err := b.Start(t.Context(), spec)
	require.NoError(t, err)
	exit, err := p.Wait()
	require.NoError(t, err)
	return exit, stdout.String(), stderr.String()
}

func TestStages(t *testing.T) {
	r := newRig(t)
	b := r.create(isolation.ProcessLevel, r.spec())
	exit, stdout, stderr := run(t, b, isolation.ProcessSpec{Script: []byte("out one\nerr two\nexit 42")})
	require.Equal(t, isolation.Exit{Code: 42}, exit)
	require.Equal(t, "one\n", stdout)
	require.Equal(t, "two\n", stderr)
	_, stdout, _ = run(t, b, isolation.ProcessSpec{Args: []string{"cat"}, Stdin: strings.NewReader("typed")})
	require.Equal(t, "typed", stdout)
	exit, _, _ = run(t, b, isolation.ProcessSpec{Script: []byte("exit 3221225477")}) // 0xC0000005
	require.Equal(t, isolation.Exit{Code: -1073741819}, exit)
	left, err := filepath.Glob(filepath.Join(b.scripts, "*"))
	require.NoError(t, err)
	require.Empty(t, left, "scripts go with their stage")

	for name, want := range map[string]string{
		"":     `powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File C:\airlock\scripts\`,
		"pwsh": `pwsh.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File C:\airlock\scripts\`, "cmd": `cmd.exe /d /c C:\airlock\scripts\`,
	} {
		before := len(r.fake.log())
		run(t, b, isolation.ProcessSpec{Script: []byte{}, Shell: name})
		require.Contains(t, strings.Join(r.fake.log()[before:], "\n"), "CreateProcess "+b.name+" "+want)
	}
	_, err = b.Start(t.Context(), isolation.ProcessSpec{Script: []byte{}, Shell: "bash"})
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	_, err = b.Start(t.Context(), isolation.ProcessSpec{Args: []string{"no-such-program", "x"}})
	require.ErrorContains(t, err, "no-such-program")
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

func TestDirectoryAndEnvironment(t *testing.T) {
	r := newRig(t)
	spec := r.spec()
	spec.Image.Config.User = "ContainerUser"
	spec.Helper = &isolation.Root{Config: isolation.ImageConfig{Env: []string{"GREETING=helper"}}}
	b := r.create(isolation.ProcessLevel, spec)
	document := func(spec isolation.ProcessSpec) processDocument {
		t.Helper()
		spec.Args = []string{"live"}
		p, err := b.Start(t.Context(), spec)
		require.NoError(t, err)
		defer func() {
			require.NoError(t, p.Signal(t.Context(), 9))
			_, err := p.Wait()
			require.NoError(t, err)
		}()
		return p.(*stage).process.(*fakeProcess).document
	}
	doc := document(isolation.ProcessSpec{Dir: "C:/builds/group/project", Env: []string{"EXTRA=1"}})
	require.Equal(t, `C:\builds\group\project`, doc.Directory)
	require.Equal(t, map[string]string{"GREETING": "image", "EXTRA": "1"}, doc.Environment)
	require.Equal(t, "ContainerUser", doc.User)
	doc = document(isolation.ProcessSpec{Dir: `C:\missing`, Helper: true, User: "ContainerAdministrator"})
	require.Equal(t, `C:\builds`, doc.Directory)
	require.Equal(t, "helper", doc.Environment["GREETING"])
	require.Equal(t, `C:\airlock\helper;C:\airlock\helper\git\cmd;C:\airlock\helper\git\mingw64\bin;C:\airlock\helper\git\usr\bin;C:\Windows\system32`,
		doc.Environment["PATH"])
	require.Equal(t, "ContainerAdministrator", doc.User)
}

func TestKillEndsTheWholeTree(t *testing.T) {
	r := newRig(t)
	b := r.create(isolation.ProcessLevel, r.spec())
	for _, signal := range []int{15, 9} {
		p, err := b.Start(t.Context(), isolation.ProcessSpec{Script: []byte("spawn child.exe\nspawn svchost.exe\nlive"), Stdout: io.Discard})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(b.system.(*fakeContainer).all()) >= 4 }, 10*time.Second, time.Millisecond)
		require.NoError(t, p.Signal(t.Context(), signal))
		exit, err := p.Wait()
		require.NoError(t, err)
		require.Equal(t, isolation.Exit{Code: 128 + signal, Signal: signal}, exit)
		for _, left := range b.system.(*fakeContainer).all() {
			require.NotEqual(t, "child.exe", left.image)
		}
	}
	exit, stdout, _ := run(t, b, isolation.ProcessSpec{Script: []byte("out next")})
	require.Zero(t, exit.Code)
	require.Equal(t, "next\n", stdout)
}

// A descendant that the list of processes does not show holds the output open: the stage ends all the same.
func TestBackgroundProcesses(t *testing.T) {
	r := newRig(t)
	b := r.create(isolation.ProcessLevel, r.spec())
	exit, stdout, _ := run(t, b, isolation.ProcessSpec{Script: []byte("spawn child.exe\nout main\nexit 4")})
	require.Equal(t, isolation.Exit{Code: 4}, exit)
	require.Equal(t, "main\n", stdout)
	for _, left := range b.system.(*fakeContainer).all() {
		require.NotEqual(t, "child.exe", left.image)
	}
	began := time.Now()
	exit, stdout, _ = run(t, b, isolation.ProcessSpec{Script: []byte("spawn svchost.exe\nout held\nexit 5")})
	require.Equal(t, isolation.Exit{Code: 5}, exit)
	require.Equal(t, "held\n", stdout)
	require.GreaterOrEqual(t, time.Since(began), r.timing.drain)

	r.fake.fail(fakeFault{call: "Processes", times: -1, err: errServiceLost})
	exit, _, _ = run(t, b, isolation.ProcessSpec{Script: []byte("spawn child.exe\nexit 6")})
	require.Equal(t, 6, exit.Code, "nothing is ended when it is not known what was there before")
	r.fake.heal()
}

// A reader that takes its time is no reason to drop output.
func TestSlowConsumer(t *testing.T) {
	r := newRig(t)
	b := r.create(isolation.ProcessLevel, r.spec())
	slow := &slowWriter{pause: 2 * r.timing.drain}
	p, err := b.Start(t.Context(), isolation.ProcessSpec{Script: []byte("out one\nout two\nout three"), Stdout: slow})
	require.NoError(t, err)
	_, err = p.Wait()
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\nthree\n", slow.text.String())
}

type slowWriter struct {
	pause time.Duration
	text  strings.Builder
}

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(w.pause)
	return w.text.Write(p)
}

func TestInteractiveOutlivesAStage(t *testing.T) {
	r := newRig(t)
	b := r.create(isolation.ProcessLevel, r.spec())
	shell, err := b.Start(t.Context(), isolation.ProcessSpec{Args: []string{"live"}, Interactive: true, TTY: true, Rows: 24, Columns: 80})
	require.NoError(t, err)
	run(t, b, isolation.ProcessSpec{Script: []byte("exit 0")})
	stage, err := b.Start(t.Context(), isolation.ProcessSpec{Script: []byte("live")})
	require.NoError(t, err)
	require.NoError(t, stage.Signal(t.Context(), 15))
	_, err = stage.Wait()
	require.NoError(t, err)
	require.Equal(t, 1, r.fake.count("CreateProcess "+b.name+" taskkill.exe /F /T /PID"))
	require.NoError(t, shell.Resize(t.Context(), 30, 100))
	require.NoError(t, shell.Signal(t.Context(), 9))
	_, err = shell.Wait()
	require.NoError(t, err)
}

func TestDestroyEndsAStage(t *testing.T) {
	r := newRig(t)
	spec := r.spec()
	b := r.create(isolation.HypervisorLevel, spec)
	p, err := b.Start(t.Context(), isolation.ProcessSpec{Script: []byte("live")})
	require.NoError(t, err)
	successor := r.Host
	require.NoError(t, successor.Runtime(isolation.ProcessLevel).Destroy(t.Context(), spec.ID))
	_, err = p.Wait()
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	<-b.Done()
	_, err = b.Start(t.Context(), isolation.ProcessSpec{Args: []string{"x"}})
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	_, err = b.Stats(t.Context())
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	require.NoError(t, successor.Runtime(isolation.HypervisorLevel).Destroy(t.Context(), "al-never-was"))
	require.Error(t, successor.Runtime(isolation.HypervisorLevel).Destroy(t.Context(), "../etc"))
}

func TestRefusedSpecs(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]struct {
		level isolation.Level
		edit  func(*isolation.Spec)
		class fault.Class
	}{
		"bad id":         {isolation.ProcessLevel, func(s *isolation.Spec) { s.ID = "../x" }, fault.System},
		"no layers":      {isolation.ProcessLevel, func(s *isolation.Spec) { s.Image.Layers = nil }, fault.Author},
		"missing layer":  {isolation.ProcessLevel, func(s *isolation.Spec) { s.Image.Layers = []string{"/none"} }, fault.System},
		"build too old":  {isolation.ProcessLevel, func(s *isolation.Spec) { s.Image.Config.OSVersion = "10.0.17763.1" }, fault.Author},
		"unknown build":  {isolation.ProcessLevel, func(s *isolation.Spec) { s.Image.Config.OSVersion = "" }, fault.Author},
		"build too new":  {isolation.HypervisorLevel, func(s *isolation.Spec) { s.Image.Config.OSVersion = "10.0.26100.1" }, fault.Author},
		"shared cache":   {isolation.HypervisorLevel, func(s *isolation.Spec) { s.CacheDir = t.TempDir() }, fault.System},
		"no utility vm":  {isolation.HypervisorLevel, func(s *isolation.Spec) { s.Image.Layers = r.base[:1] }, fault.Author},
		"shell in hosts": {isolation.ProcessLevel, func(s *isolation.Spec) { s.Network.Hosts = []string{"1.2.3.4 a&calc"} }, fault.Admin},
	} {
		spec := r.spec()
		test.edit(&spec)
		_, err := r.Runtime(test.level).Create(t.Context(), spec)
		require.Error(t, err, name)
		require.Equal(t, test.class, fault.ClassOf(err), "%s: %v", name, err)
		r.requireNothing(spec)
	}
	spec := r.spec()
	r.create(isolation.ProcessLevel, spec)
	_, err := r.Runtime(isolation.ProcessLevel).Create(t.Context(), spec)
	require.ErrorContains(t, err, "already")
}

func TestFits(t *testing.T) {
	for _, test := range []struct {
		host, image         string
		process, hypervisor bool
	}{
		{"10.0.17763.1", "10.0.17763.5", true, true},
		{"10.0.17763.1", "10.0.14393.5", false, true},
		{"10.0.17763.1", "10.0.20348.5", false, false},
		{"10.0.20348.1", "10.0.20348.5", true, true},
		{"10.0.20348.1", "10.0.17763.5", false, true},
		{"10.0.20348.1", "10.0.26100.5", false, false},
		{"10.0.25398.1", "10.0.20348.5", true, true},
		{"10.0.26100.1", "10.0.20348.5", true, true},
		{"10.0.26100.1", "10.0.17763.5", false, true},
		{"10.0.28000.1", "10.0.26100.5", true, true},
		{"10.0.28000.1", "10.0.20348.5", false, true},
		{"10.0.20348.1", "", false, true},
		{"10.0.20348.1", "6.1.7601", false, false},
		{"10.0.20348.1", "latest", false, false},
	} {
		host, err := ParseVersion(test.host)
		require.NoError(t, err)
		for level, want := range map[isolation.Level]bool{isolation.ProcessLevel: test.process, isolation.HypervisorLevel: test.hypervisor} {
			fits, reason := Fits(level, host, test.image)
			require.Equal(t, want, fits, "%s on %s at %s: %s", test.image, test.host, level, reason)
			require.Equal(t, fits, reason == "", "a reason when it does not fit, and only then")
		}
	}
}
