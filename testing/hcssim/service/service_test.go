package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLifeOfContainers(t *testing.T) {
	for _, kind := range []func(*machine, string) object{(*machine).argon, (*machine).xenon} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				m := newMachine(t)
				m.service.vary = newVariation(seed)
				doc := kind(m, "c")
				system := m.create(doc)
				got := m.notifications("HcsRegisterComputeSystemCallback", system)
				m.expect(got, createCompleted, OK)
				m.must(Pending, "HcsStartComputeSystem", system, "")
				m.expect(got, startCompleted, OK)

				process := m.must(OK, "HcsCreateProcess", system, `{"CommandLine":"exit 3","CreateStdOutPipe":true}`)
				require.NotZero(t, process[1], "its id")
				require.Equal(t, []any{uint64(0), uint64(0)}, []any{process[2], process[4]}, "pipes that nobody asked for")
				ended := m.notifications("HcsRegisterProcessCallback", process[0].(uint64))
				m.expect(ended, processExited, OK)
				require.Contains(t, m.must(OK, "HcsGetProcessProperties", process[0])[0], `"ExitCode":3`)
				m.must(ProcessStopped, "HcsTerminateProcess", process[0])

				running := m.must(OK, "HcsCreateProcess", system, `{"CommandLine":"run"}`)[0].(uint64)
				ended = m.notifications("HcsRegisterProcessCallback", running)
				m.must(Pending, "HcsTerminateComputeSystem", system, "")
				m.expect(ended, processExited, OK)
				m.expect(got, systemExited, OK)
				require.Contains(t, m.must(OK, "HcsGetProcessProperties", running)[0], fmt.Sprintf(`"ExitCode":%d`, aborted))
				m.must(AlreadyStopped, "HcsTerminateComputeSystem", system, "")
				m.must(NoSystem, "HcsOpenComputeSystem", "c")
				m.must(OK, "HcsCloseComputeSystem", system)
				require.Equal(t, "[]", m.must(OK, "HcsEnumerateComputeSystems", "")[0])
				if doc["HvPartition"] == false {
					m.must(OK, "UnprepareLayer", doc["LayerFolderPath"])
					m.must(OK, "DeactivateLayer", doc["LayerFolderPath"])
				}
				m.must(OK, "DestroyLayer", doc["LayerFolderPath"])
				require.Empty(t, m.service.Leaks())
				require.Empty(t, m.service.Broken())
			})
		}
	}
}

// TestHeldWhileUsed: nobody renames or removes the scratch of a container, whoever mounted it.
func TestHeldWhileUsed(t *testing.T) {
	m := newMachine(t)
	for _, doc := range []object{m.argon("c"), m.xenon("d")} {
		system := m.start(doc)
		folder, err := m.disk.Path(doc["LayerFolderPath"].(string))
		require.NoError(t, err)
		require.True(t, m.disk.held[folder])
		m.finish(system)
		if doc["HvPartition"] == false {
			m.must(OK, "UnprepareLayer", doc["LayerFolderPath"])
			m.must(OK, "DeactivateLayer", doc["LayerFolderPath"])
		}
		require.False(t, m.disk.held[folder])
	}
}

func TestLastHandle(t *testing.T) {
	m := newMachine(t)
	tied, free := m.argon("tied"), m.argon("free")
	delete(free, "TerminateOnLastHandleClosed")
	m.start(tied)
	m.start(free)
	m.service.Disconnect(m.client) // the process dies
	m.client = m.service.Connect(12)
	m.until(func() bool { result, _ := m.call("HcsOpenComputeSystem", "tied"); return result == NoSystem })
	m.must(OK, "HcsOpenComputeSystem", "free")
	require.Contains(t, strings.Join(m.service.Leaks(), "\n"), "process 8 ended with a handle of system tied open")
	m.service.Forgive()
	require.NotContains(t, strings.Join(m.service.Leaks(), "\n"), "process 8")
}

// TestLateCalls: what comes of a client that is dead, or of one at the machine's end, is not done.
func TestLateCalls(t *testing.T) {
	m := newMachine(t)
	dead := m.client
	m.service.Disconnect(dead)
	m.must(ServiceGone, "CreateSandboxLayer", `C:\s\late`, chainOf("top", "middle", "base"))
	ended := make(chan struct{})
	require.Zero(t, m.service.Callback(dead, nil, func() { close(ended) }))
	<-ended
	m.client = m.service.Connect(16)
	m.service.Close()
	m.must(ServiceGone, "CreateSandboxLayer", `C:\s\late`, chainOf("top", "middle", "base"))
	require.NoDirExists(t, filepath.Join(m.drive, "s"))
	require.Empty(t, m.service.Leaks())
}

// TestDeathWhileStarting: a client that dies while its process starts gets no handle of it, and leaves none.
func TestDeathWhileStarting(t *testing.T) {
	m := newMachine(t)
	m.service.config.Guests = fakeGuests{run: func() { m.service.Disconnect(m.client) }}
	doc := m.xenon("c")
	delete(doc, "TerminateOnLastHandleClosed")
	system := m.start(doc)
	m.must(ServiceGone, "HcsCreateProcess", system, `{"CommandLine":"run","CreateStdOutPipe":true}`)
	require.Empty(t, m.client.handles)
	for _, p := range m.service.systems["c"].processes {
		require.Empty(t, p.handles)
	}
}

// TestDeadClientOfProcess: the handles of a process go with its client, and with the last one its stdin.
func TestDeadClientOfProcess(t *testing.T) {
	m := newMachine(t)
	doc := m.xenon("c")
	delete(doc, "TerminateOnLastHandleClosed")
	system := m.start(doc)
	number := m.must(OK, "HcsCreateProcess", system, `{"CommandLine":"run","CreateStdInPipe":true}`)[2].(uint64)
	m.service.Disconnect(m.client)
	select {
	case <-m.service.streams.take(number).closed:
	case <-time.After(5 * time.Second):
		t.Fatal("its stdin is open")
	}
	for _, p := range m.service.systems["c"].processes {
		require.Empty(t, p.handles)
	}
}

func toJSON(doc object) string {
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestBuilds(t *testing.T) {
	tests := []struct {
		host       int
		hypervisor bool
		image      string
		want       HRESULT
	}{
		{20348, false, "20348", Pending},
		{20348, false, "17763", ImageMismatch},
		{20348, false, "26100", ImageMismatch},
		{26100, false, "20348", Pending},
		{26200, false, "20348", ImageMismatch},
		{26200, false, "26100", Pending},
		{26200, true, "20348", Pending},
		{17763, false, "17763", Pending},
		{17763, false, "17134", ImageMismatch},
		{20348, true, "17763", Pending},
		{20348, true, "26100", ImageMismatch},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			m := newMachine(t)
			m.service.config.Build = test.host
			doc := m.argon("c")
			if test.hypervisor {
				doc = m.xenon("d")
			}
			m.write("l/base/Files/Windows/System32/config/SOFTWARE", "hcssim hive, CurrentBuild "+test.image)
			result, _ := m.call("HcsCreateComputeSystem", doc["Name"], toJSON(doc))
			require.Equal(t, test.want, result)
			require.Empty(t, m.service.Broken(), "a correct client may meet this")
		})
	}
}

func TestTemplates(t *testing.T) {
	m := newMachine(t)
	doc := m.xenon("c")
	doc["HvRuntime"] = object{"ImagePath": `C:\l\base\UtilityVM`}
	system := m.start(doc)
	m.finish(system)
	m.must(OK, "DestroyLayer", doc["LayerFolderPath"])

	list := m.must(OK, "HcsEnumerateComputeSystems", "")[0].(string)
	require.Contains(t, list, `"IsRuntimeTemplate":true`)
	m.must(Sharing, "DestroyLayer", `C:\l\base`)
	for id := range m.service.systems {
		m.finish(m.must(OK, "HcsOpenComputeSystem", id)[0].(uint64))
	}
	m.must(OK, "DestroyLayer", `C:\l\base`)
	require.Empty(t, m.service.Broken())
}

func TestImportedLayers(t *testing.T) {
	m := newMachine(t)
	for _, file := range []string{"top.txt", "middle.txt", "windows/system32/config/SAM"} {
		require.FileExists(t, filepath.Join(m.drive, "l/top/Files", file), "the upper-most layer is complete")
	}
	text, err := os.ReadFile(filepath.Join(m.drive, "l/top/Files/top.txt"))
	require.NoError(t, err)
	require.Equal(t, "hi", string(text))
}

func TestExpand(t *testing.T) {
	m := newMachine(t)
	path := m.scratch("a")
	m.must(OK, "ExpandSandboxSize", path, uint64(127<<30))
	m.must(OK, "OpenVirtualDisk", path+`\sandbox.vhdx`)
	m.must(OK, "AttachVirtualDisk", path+`\sandbox.vhdx`, 0)
	m.must(OK, "GetLayerMountPath", path, 0)
	m.must(OK, "ActivateLayer", path)
	m.must(OK, "DetachVirtualDisk", path+`\sandbox.vhdx`, 0)
	m.must(NotReady, "GetLayerMountPath", path, 0)
	m.must(OK, "DestroyLayer", path)
}

func TestFaults(t *testing.T) {
	m := newMachine(t)
	path := m.scratch("a")
	m.service.Fault(Fault{Name: "busy", Call: "ActivateLayer", Match: `s\A`, Skip: 1, Times: 2, HRESULT: Sharing})
	m.must(OK, "ActivateLayer", path)
	m.must(OK, "DeactivateLayer", path)
	m.must(Sharing, "ActivateLayer", path)
	m.must(Sharing, "ActivateLayer", path)
	m.must(OK, "ActivateLayer", path)
	trace := m.service.Trace()
	require.Equal(t, []string{"busy", ""}, []string{trace[len(trace)-2].Fault, trace[len(trace)-1].Fault})

	m.service.ClearFaults()
	doc := m.xenon("c")
	m.service.Fault(Fault{Call: "HcsStartComputeSystem", Match: "system c", NotificationStatus: UnexpectedExit})
	system := m.create(doc)
	got := m.notifications("HcsRegisterComputeSystemCallback", system)
	m.expect(got, createCompleted, OK)
	m.must(Pending, "HcsStartComputeSystem", system, "")
	m.expect(got, startCompleted, UnexpectedExit)

	m.service.Fault(Fault{Call: "HcsTerminateComputeSystem", DropNotification: true, Times: Always})
	m.must(Pending, "HcsTerminateComputeSystem", system, "")
	select {
	case n := <-got:
		t.Fatalf("a notification that was to be dropped: %v", n)
	case <-time.After(100 * time.Millisecond):
	}
	m.service.Fault(Fault{Call: "HcsEnumerate*", Delay: 50 * time.Millisecond})
	before := time.Now()
	m.must(OK, "HcsEnumerateComputeSystems", "")
	require.GreaterOrEqual(t, time.Since(before), 50*time.Millisecond)
}

// TestKilledInCall: the call in which a client was killed is in the trace while it is still out.
func TestKilledInCall(t *testing.T) {
	m := newMachine(t)
	m.service.Fault(Fault{Call: "HcsEnumerateComputeSystems", KillClient: true})
	killed := make(chan uint64, 1)
	m.service.config.Kill = func(pid uint64) { killed <- pid }
	go m.service.Invoke(m.client, Fields([]byte("HcsEnumerateComputeSystems"), uint64(0), ""))
	require.EqualValues(t, 8, <-killed)
	trace := m.service.Trace()
	require.Contains(t, trace[len(trace)-1].String(), "its client is killed")
}

func TestServiceStops(t *testing.T) {
	m := newMachine(t)
	system := m.start(m.argon("c"))
	got := m.notifications("HcsRegisterComputeSystemCallback", system)
	m.expect(got, createCompleted, OK)
	m.expect(got, startCompleted, OK)
	m.service.StopService()
	m.expect(got, serviceDisconnect, OK)
	m.must(ServiceGone, "HcsEnumerateComputeSystems", "")
	m.service.StartService()
	require.Equal(t, "[]", m.must(OK, "HcsEnumerateComputeSystems", "")[0])
}

func TestCrash(t *testing.T) {
	m := newMachine(t)
	system := m.start(m.xenon("c"))
	got := m.notifications("HcsRegisterComputeSystemCallback", system)
	m.expect(got, createCompleted, OK)
	m.expect(got, startCompleted, OK)
	require.NoError(t, m.service.Crash("c"))
	m.expect(got, systemExited, UnexpectedExit)
	require.Error(t, m.service.Crash("c"))
}

func TestStartFails(t *testing.T) {
	m := newMachine(t)
	m.service.config.Guests = fakeGuests{boot: func() error { return errors.New("no memory") }}
	system := m.create(m.argon("c"))
	got := m.notifications("HcsRegisterComputeSystemCallback", system)
	m.expect(got, createCompleted, OK)
	m.must(Pending, "HcsStartComputeSystem", system, "")
	m.expect(got, startCompleted, UnexpectedExit)
	m.must(AlreadyStopped, "HcsStartComputeSystem", system, "")
}

func TestReboot(t *testing.T) {
	m := newMachine(t)
	doc := m.argon("c")
	doc["EndpointList"] = []string{m.endpoint()}
	m.start(doc)
	m.service.Disconnect(m.client)
	m.service.Forgive()
	m.service.Reboot()
	m.client = m.service.Connect(16)
	require.Equal(t, "[]", m.must(OK, "HcsEnumerateComputeSystems", "")[0])
	m.must(NotReady, "UnprepareLayer", doc["LayerFolderPath"])
	require.Len(t, m.service.Leaks(), 2, "its scratch and its endpoint: %v", m.service.Leaks())
	require.Contains(t, m.must(OK, "HNSCall", "GET", "/networks/", "")[0], `"Output":[]`, "a NAT network goes")
	m.must(OK, "DestroyLayer", doc["LayerFolderPath"])
}

// TestLeaks plants one leak of each kind.
func TestLeaks(t *testing.T) {
	m := newMachine(t)
	require.Empty(t, m.service.Leaks())
	m.mounted("mounted")
	m.create(m.xenon("c"))
	m.endpoint()
	other := m.client
	m.client = m.service.Connect(99)
	m.must(OK, "HcsOpenComputeSystem", "c")
	m.service.Disconnect(m.client)
	m.client = other
	m.write("ingest/hcs1/Files/x", "\x20\x00\x00\x00")
	m.must(OK, "ImportLayer", `C:\l\new`, `C:\ingest\hcs1`, chainOf("base"))
	m.scratch("x")
	require.NoError(t, os.MkdirAll(filepath.Join(m.drive, "t"), 0o777))
	require.NoError(t, os.Rename(filepath.Join(m.drive, "s/x"), filepath.Join(m.drive, "t/x-removing")))
	leaks := strings.Join(m.service.Leaks(), "\n")
	for _, want := range []string{
		`C:\s\mounted is mounted`, `C:\s\mounted is there`, `scratch C:\t\x-removing is there`, `system c is Created`, "endpoint e",
		`C:\ingest\hcs1`, "process 99",
	} {
		require.Contains(t, leaks, want)
	}
}

// TestVariation: what is left open differs from seed to seed, and is repeatable.
func TestVariation(t *testing.T) {
	slashed := map[bool]bool{}
	for seed := range uint64(20) {
		var twice [2]string
		for i := range twice {
			m := newMachine(t)
			m.service.vary = newVariation(seed)
			path := m.scratch("a")
			m.must(OK, "ActivateLayer", path)
			twice[i] = m.must(OK, "GetLayerMountPath", path, 0)[0].(string)
		}
		require.Equal(t, twice[0], twice[1])
		slashed[strings.HasSuffix(twice[0], `\`)] = true
	}
	require.Len(t, slashed, 2)
}

// TestVariationIsRepeatable: an answer does not depend on what else was asked.
func TestVariationIsRepeatable(t *testing.T) {
	alone, among := newVariation(7), newVariation(7)
	answers := map[any]bool{}
	for range 50 {
		among.chance("another")
		among.newGUID("another")
		one, other := alone.newGUID("one"), among.newGUID("one")
		require.Equal(t, one, other)
		require.Equal(t, alone.delay("one"), among.delay("one"))
		answers[one] = true
	}
	require.Len(t, answers, 50)
	require.NotEqual(t, newVariation(7).newGUID("one"), newVariation(8).newGUID("one"))
}

func TestGUIDs(t *testing.T) {
	g := NameToGUID("base")
	for _, text := range []string{g.String(), strings.ToUpper(g.String()), "{" + g.String() + "}"} {
		parsed, err := ParseGUID(text)
		require.NoError(t, err)
		require.Equal(t, g, parsed)
	}
	for _, text := range []string{"", "base", g.String() + "0", strings.ReplaceAll(g.String(), "-", "x")} {
		_, err := ParseGUID(text)
		require.Error(t, err, text)
	}
	require.NotEqual(t, g, NameToGUID("Base"))
}
