package service

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// machine is a service without Wine: its C: is a directory, and its processes are pretended.
type machine struct {
	t       *testing.T
	service *Service
	client  *Client
	drive   string
	disk    fakeDisk
	held    privileges
	result  HRESULT // of the last call
	reply   []any
}

// fakeGuests pretend processes: "exit N" ends at once, "missing" is not found, all else runs until it is killed.
type fakeGuests struct {
	boot func() error
	run  func() // while a process starts
}

func (fakeGuests) Merge(Scratch) (string, error) { return "", nil }
func (fakeGuests) Split(string)                  {}
func (g fakeGuests) Boot(Container) (Guest, error) {
	if g.boot != nil {
		if err := g.boot(); err != nil {
			return nil, err
		}
	}
	return &fakeGuest{run: g.run}, nil
}

type fakeGuest struct {
	run  func()
	mu   sync.Mutex
	last uint64
	all  []func(uint32)
}

func (g *fakeGuest) Run(p Process) (uint64, func(uint32), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run != nil {
		g.run()
	}
	if p.CommandLine == "missing" {
		return 0, nil, GuestError(2)
	}
	g.last += 4
	var once sync.Once
	end := func(code uint32) { once.Do(func() { go p.Exited(code) }) }
	if strings.HasPrefix(p.CommandLine, "exit ") {
		end(uint32(p.CommandLine[5] - '0'))
	}
	g.all = append(g.all, end)
	return g.last, end, nil
}

func (g *fakeGuest) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, end := range g.all {
		end(aborted)
	}
}

// fakeDisk is a directory as C:.
type fakeDisk struct {
	drive string
	mu    *sync.Mutex
	held  map[string]bool
}

func (d fakeDisk) Path(windows string) (string, error) {
	if !strings.HasPrefix(windows, `C:\`) || strings.Contains(windows, "..") {
		return "", errors.New("elsewhere")
	}
	return foldPath(d.drive, strings.ReplaceAll(windows[3:], `\`, "/")), nil
}
func (fakeDisk) Publish(GUID, string) error { return nil }
func (fakeDisk) Withdraw(GUID)              {}

func (d fakeDisk) Hold(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[dir] = true
}

func (d fakeDisk) Release(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.held, dir)
}

// newMachine has a base (C:\l\base) with a utility VM, two layers above (C:\l\middle, C:\l\top), a base of an older build
// (C:\l\old), and a directory C:\data with a link to it, C:\link.
func newMachine(t *testing.T) *machine {
	t.Helper()
	drive := t.TempDir()
	m := &machine{t: t, drive: drive, held: backupPrivilege | restorePrivilege}
	m.disk = fakeDisk{drive, &sync.Mutex{}, map[string]bool{}}
	m.service = New(Config{Build: 20348, Seed: 7, Disk: m.disk, Guests: fakeGuests{}, Log: t.Logf})
	t.Cleanup(m.service.Close)
	m.client = m.service.Connect(8)
	m.base("base", "20348")
	m.base("old", "17763")
	m.layer("middle", "base")
	m.layer("top", "middle", "base")
	require.NoError(t, os.Mkdir(filepath.Join(drive, "data"), 0o777))
	require.NoError(t, os.Symlink(filepath.Join(drive, "data"), filepath.Join(drive, "link")))
	return m
}

func (m *machine) write(path, text string) {
	path = filepath.Join(m.drive, path)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(path), 0o777))
	require.NoError(m.t, os.WriteFile(path, []byte(text), 0o666))
}

func (m *machine) base(name, build string) {
	for _, hive := range hives {
		m.write("l/"+name+"/Files/Windows/System32/config/"+hive, "hcssim hive, CurrentBuild "+build)
	}
	m.write("l/"+name+"/UtilityVM/Files/boot", "")
	m.must(OK, "ProcessBaseImage", `C:\l\`+name)
	m.must(OK, "ProcessUtilityImage", `C:\l\`+name+`\UtilityVM`)
}

func (m *machine) layer(name string, parents ...string) {
	m.write("transport/"+name+"/Files/"+name+".txt", "\x20\x00\x00\x00"+"\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00hi")
	m.must(OK, "ImportLayer", `C:\l\`+name, `C:\transport\`+name, chainOf(parents...))
	require.NoError(m.t, os.RemoveAll(filepath.Join(m.drive, "transport", name)))
}

// chainOf returns the descriptors of layers by their names.
func chainOf(names ...string) []Layer {
	var chain []Layer
	for _, name := range names {
		chain = append(chain, Layer{NameToGUID(name), `C:\l\` + name})
	}
	return chain
}

// call makes a call and returns its results behind the HRESULT.
func (m *machine) call(function string, args ...any) (HRESULT, []any) {
	values := []any{[]byte(function), uint64(m.held)}
	for _, arg := range args {
		layers, ok := arg.([]Layer)
		if !ok {
			values = append(values, arg)
			continue
		}
		values = append(values, len(layers))
		for _, layer := range layers {
			values = append(values, layer.ID, 0, layer.Path)
		}
	}
	return m.invoke(values...)
}

func (m *machine) invoke(values ...any) (HRESULT, []any) {
	reply, after := m.service.Invoke(m.client, Fields(values...))
	after()
	m.result, m.reply = reply[0].(HRESULT), reply[1:]
	return m.result, m.reply
}

// must makes a call that has to return something.
func (m *machine) must(want HRESULT, function string, args ...any) []any {
	m.t.Helper()
	got, results := m.call(function, args...)
	require.Equal(m.t, want, got, "%s(%v): %v", function, args, results)
	return results
}

// scratch makes a scratch of the chain top, middle, base.
func (m *machine) scratch(name string) string {
	m.must(OK, "CreateSandboxLayer", `C:\s\`+name, chainOf("top", "middle", "base"))
	return `C:\s\` + name
}

// mounted makes one and mounts it, and returns its volume.
func (m *machine) mounted(name string) (path, volume string) {
	path = m.scratch(name)
	m.must(OK, "ActivateLayer", path)
	m.must(OK, "PrepareLayer", path, chainOf("top", "middle", "base"))
	volume = m.must(OK, "GetLayerMountPath", path, 0)[0].(string)
	return path, strings.TrimSuffix(volume, `\`)
}

type object = map[string]any

// argon and xenon are documents that are accepted.
func (m *machine) argon(name string) object {
	path, volume := m.mounted(name)
	return object{
		"SystemType": "Container", "Name": name, "Owner": "airlock", "VolumePath": volume, "LayerFolderPath": path,
		"Layers": layerList("top", "middle", "base"), "HvPartition": false, "TerminateOnLastHandleClosed": true,
		"MemoryMaximumInMB": 512, "ProcessorMaximum": 5000, "IgnoreFlushesDuringBoot": true,
		"MappedDirectories": []object{{"HostPath": `C:\data`, "ContainerPath": `C:\data`, "ReadOnly": true, "BandwidthMaximum": 0, "IOPSMaximum": 0, "CreateInUtilityVM": false}},
	}
}

func (m *machine) xenon(name string) object {
	return object{
		"SystemType": "Container", "Name": name, "Owner": "airlock", "LayerFolderPath": m.scratch(name),
		"Layers": layerList("top", "middle", "base"), "HvPartition": true, "TerminateOnLastHandleClosed": true,
		"HvRuntime":      object{"ImagePath": `C:\l\base\UtilityVM`, "SkipTemplate": true},
		"ProcessorCount": 2, "ProcessorWeight": 100,
	}
}

func layerList(names ...string) []object {
	var list []object
	for _, name := range names {
		list = append(list, object{"ID": NameToGUID(name).String(), "Path": `C:\l\` + name})
	}
	return list
}

// create makes a system and returns its handle; start starts it, and waits.
func (m *machine) create(doc object) uint64 {
	m.t.Helper()
	text, err := json.Marshal(doc)
	require.NoError(m.t, err)
	return m.must(Pending, "HcsCreateComputeSystem", doc["Name"].(string), string(text))[0].(uint64)
}

func (m *machine) start(doc object) uint64 {
	m.t.Helper()
	system := m.create(doc)
	m.must(Pending, "HcsStartComputeSystem", system, "")
	m.until(func() bool { return strings.Contains(m.properties(system), `"State":"Running"`) })
	return system
}

// finish ends a system and closes its handle.
func (m *machine) finish(system uint64) {
	m.t.Helper()
	m.must(Pending, "HcsTerminateComputeSystem", system, "")
	m.until(func() bool { return strings.Contains(m.properties(system), `"Stopped"`) })
	m.must(OK, "HcsCloseComputeSystem", system)
}

// used makes a scratch that a Hyper-V container has had.
func (m *machine) used() string {
	m.t.Helper()
	doc := m.xenon("used")
	m.finish(m.start(doc))
	return doc["LayerFolderPath"].(string)
}

func (m *machine) properties(system uint64) string {
	return m.must(OK, "HcsGetComputeSystemProperties", system, "{}")[0].(string)
}

func (m *machine) until(done func() bool) {
	m.t.Helper()
	require.Eventually(m.t, done, 5*time.Second, time.Millisecond)
}

// notifications registers a callback and returns what it gets.
func (m *machine) notifications(function string, handle uint64) chan notification {
	got := make(chan notification, 16)
	id := m.service.Callback(m.client, func(kind uint32, status HRESULT) error {
		got <- notification{kind: kind, status: status}
		return nil
	}, func() {})
	m.must(OK, function, handle, id)
	return got
}

func (m *machine) expect(got chan notification, kind uint32, status HRESULT) {
	m.t.Helper()
	select {
	case n := <-got:
		require.Equal(m.t, notification{kind: kind, status: status}, n)
	case <-time.After(5 * time.Second):
		m.t.Fatalf("no notification %#x", kind)
	}
}
