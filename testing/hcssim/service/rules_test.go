package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documents are the wrong uses in a container's document: each changes one thing in a document that is accepted.
func documentBreaches() []struct {
	name  string
	rule  Rule
	xenon bool
	spoil func(m *machine, doc object)
} {
	set := func(member string, value any) func(*machine, object) {
		return func(_ *machine, doc object) { doc[member] = value }
	}
	without := func(member string) func(*machine, object) {
		return func(_ *machine, doc object) { delete(doc, member) }
	}
	mapped := func(host, container string) func(*machine, object) {
		return set("MappedDirectories", []object{{"HostPath": host, "ContainerPath": container}})
	}
	return []struct {
		name  string
		rule  Rule
		xenon bool
		spoil func(m *machine, doc object)
	}{
		{"unknown member", RuleMember, false, set("VolumePaths", "x")},
		{"member in another case", RuleMember, false, set("volumepath", "x")},
		{"unknown member below", RuleMember, true, set("HvRuntime", object{"ImagePath": `C:\l\base\UtilityVM`, "Template": true})},
		{"unknown member of a layer", RuleMember, false, set("Layers", []object{{"Id": "x", "Path": "y"}})},
		{"wrong type", RuleType, false, set("MemoryMaximumInMB", "512")},
		{"not simulated", RuleUnsimulated, false, set("MappedPipes", []object{{"HostPath": "x", "ContainerPipeName": "y"}})},
		{"no system type", RuleSystemType, false, without("SystemType")},
		{"system type", RuleSystemType, false, set("SystemType", "VirtualMachine")},
		{"no layers", RuleLayers, false, set("Layers", nil)},
		{"layer twice", RuleLayers, false, set("Layers", layerList("top", "top", "base"))},
		{"layer id no GUID", RuleLayerID, false, set("Layers", []object{{"ID": "top", "Path": `C:\l\top`}})},
		{"layer id of another", RuleLayerID, false, set("Layers", []object{{"ID": NameToGUID("base").String(), "Path": `C:\l\top`}})},
		{"base first", RuleLayerOrder, false, set("Layers", layerList("base", "middle", "top"))},
		{"base missing", RuleLayerOrder, false, set("Layers", layerList("top", "middle"))},
		{"middle missing", RuleLayerOrder, false, set("Layers", layerList("top", "base"))},
		{"layer without files", RuleLayerFiles, false, set("Layers", layerList("none", "base"))},
		{"layer that was not imported", RuleLayerFiles, false, func(m *machine, doc object) {
			m.write("l/copied/Files/x", "")
			doc["Layers"] = layerList("copied", "middle", "base")
		}},
		{"layers below of another", RuleLayerOrder, false, func(m *machine, doc object) {
			m.layer("other", "base")
			require.NoError(m.t, os.RemoveAll(filepath.Join(m.drive, "l/middle")))
			m.layer("middle", "other", "base")
			doc["Layers"] = layerList("top", "middle", "base")
		}},
		{"layer elsewhere", RulePath, false, set("Layers", []object{{"ID": NameToGUID("x").String(), "Path": `Z:\x`}})},
		{"no folder", RuleLayerFolder, false, without("LayerFolderPath")},
		{"folder that is no scratch", RuleLayerFolder, false, set("LayerFolderPath", `C:\data`)},
		{"scratch of other layers", RuleLayerFolder, true, set("Layers", layerList("middle", "base"))},
		{"scratch in use", RuleLayerFolder, false, func(m *machine, doc object) {
			first := clone(doc)
			first["Name"] = "first"
			m.create(first)
		}},
		{"no volume", RuleVolume, false, without("VolumePath")},
		{"volume with a backslash", RuleVolume, false, func(_ *machine, doc object) { doc["VolumePath"] = doc["VolumePath"].(string) + `\` }},
		{"volume of another", RuleVolume, false, func(m *machine, doc object) { _, doc["VolumePath"] = m.mounted("other") }},
		{"scratch not prepared", RulePrepared, false, func(m *machine, doc object) { m.must(OK, "UnprepareLayer", doc["LayerFolderPath"]) }},
		{"utility VM of a process container", RuleHvRuntime, false, set("HvRuntime", object{"ImagePath": `C:\l\base\UtilityVM`})},
		{"no utility VM", RuleHvRuntime, true, without("HvRuntime")},
		{"no image path", RuleHvRuntime, true, set("HvRuntime", object{})},
		{"another utility VM", RuleHvRuntime, true, set("HvRuntime", object{"ImagePath": `C:\l\old\UtilityVM`})},
		{"utility VM not processed", RuleHvRuntime, true, func(m *machine, _ object) {
			require.NoError(m.t, os.Remove(filepath.Join(m.drive, "l/base/UtilityVM", utilityDisk)))
		}},
		{"no layer with a utility VM", RuleHvRuntime, true, func(m *machine, _ object) {
			require.NoError(m.t, os.RemoveAll(filepath.Join(m.drive, "l/base/UtilityVM")))
		}},
		{"utility VM below another one", RuleHvRuntime, true, func(m *machine, _ object) {
			m.write("l/middle/UtilityVM/Files/boot", "")
			m.must(OK, "ProcessUtilityImage", `C:\l\middle\UtilityVM`)
		}},
		{"volume of a Hyper-V container", RuleVolume, true, set("VolumePath", VolumePath(GUID{}))},
		{"mounted on the host", RuleMountedOnHost, true, func(m *machine, doc object) { m.must(OK, "ActivateLayer", doc["LayerFolderPath"]) }},
		{"two settings of processors", RuleProcessors, false, set("ProcessorCount", 2)},
		{"too much processor", RuleProcessors, false, set("ProcessorMaximum", 10001)},
		{"too much weight", RuleProcessors, true, set("ProcessorWeight", 10001)},
		{"less than no processor", RuleProcessors, false, set("ProcessorMaximum", -1)},
		{"less than no memory", RuleProcessors, false, set("MemoryMaximumInMB", -1)},
		{"mapped from elsewhere", RuleMapped, false, mapped(`Z:\data`, `C:\x`)},
		{"mapped directory missing", RuleMapped, false, mapped(`C:\none`, `C:\x`)},
		{"mapped through a link", RuleMapped, false, mapped(`C:\link`, `C:\x`)},
		{"mapped file", RuleMapped, false, mapped(`C:\l\base\layout`, `C:\x`)},
		{"mapped to a relative path", RuleMapped, false, mapped(`C:\data`, `x`)},
		{"mapped to a drive", RuleMapped, false, mapped(`C:\data`, `C:\`)},
		{"mapped to a step up", RuleMapped, false, mapped(`C:\data`, `C:\a\..\b`)},
		{"unknown endpoint", RuleEndpoint, false, set("EndpointList", []string{NameToGUID("x").String()})},
		{"endpoint twice", RuleEndpoint, false, func(m *machine, doc object) {
			id := m.endpoint()
			doc["EndpointList"] = []string{id, id}
		}},
		{"endpoint of another system", RuleEndpoint, true, func(m *machine, doc object) {
			other := m.argon("other")
			other["EndpointList"] = []string{m.endpoint()}
			m.create(other)
			doc["EndpointList"] = other["EndpointList"]
		}},
		{"name is not the id", RuleName, false, set("Name", "another")},
	}
}

func clone(doc object) object {
	copied := object{}
	for key, value := range doc {
		copied[key] = value
	}
	return copied
}

// network makes a network, endpoint an endpoint in it.
func (m *machine) network() uint64 {
	return m.must(OK, "HcnCreateNetwork", GUID{}, `{"Name":"n","Type":"NAT","SchemaVersion":{"Major":2,"Minor":0},"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24","Routes":[{"NextHop":"10.1.0.1","DestinationPrefix":"0.0.0.0/0"}]}]}]}`)[0].(uint64)
}

func (m *machine) networkID(handle uint64) string {
	return m.client.handles[handle].(*networkHandle).id
}

// hnsNetwork, hcnNetwork and hnsEndpoint try to make one, by either interface.
func (m *machine) hnsNetwork(prefix, gateway string) {
	m.call("HNSCall", "POST", "/networks/", `{"Name":"m","Type":"nat","Subnets":[{"AddressPrefix":"`+prefix+`","GatewayAddress":"`+gateway+`"}]}`)
}

func (m *machine) hcnNetwork(prefix, route string) {
	m.call("HcnCreateNetwork", GUID{},
		`{"Name":"m","Type":"NAT","SchemaVersion":{"Major":2},"Ipams":[{"Subnets":[{"IpAddressPrefix":"`+prefix+`","Routes":[`+route+`]}]}]}`)
}

func (m *machine) hnsEndpoint(address string) {
	m.call("HNSCall", "POST", "/endpoints/", `{"VirtualNetwork":"`+m.networkID(m.network())+`","IPAddress":"`+address+`"}`)
}

// policy tries to make an endpoint with one.
func (m *machine) policy(text string) {
	m.call("HNSCall", "POST", "/endpoints/", `{"VirtualNetwork":"`+m.networkID(m.network())+`","Policies":[`+text+`]}`)
}

// running starts a Hyper-V container and returns its scratch.
func (m *machine) running() string {
	doc := m.xenon("running")
	m.start(doc)
	return doc["LayerFolderPath"].(string)
}

func (m *machine) endpoint() string {
	handle := m.must(OK, "HNSCall", "POST", "/endpoints/", `{"Name":"e","VirtualNetwork":"`+m.networkID(m.network())+`"}`)[0].(string)
	var answer struct{ Output struct{ ID string } }
	require.NoError(m.t, json.Unmarshal([]byte(handle), &answer))
	return answer.Output.ID
}

// callBreaches are the wrong uses beside documents.
func callBreaches() []struct {
	name string
	rule Rule
	do   func(m *machine)
} {
	chain := chainOf("top", "middle", "base")
	return []struct {
		name string
		rule Rule
		do   func(m *machine)
	}{
		{"function", RuleFunction, func(m *machine) { m.call("HcsSaveComputeSystem", 1, "") }},
		{"half a call", RuleFunction, func(m *machine) { m.invoke([]byte("HcsEnumerateComputeSystems")) }},
		{"method of HNS", RuleFunction, func(m *machine) { m.call("HNSCall", "PUT", "/networks/", "{}") }},
		{"path of HNS", RuleFunction, func(m *machine) { m.call("HNSCall", "GET", "/policylists/", "") }},
		{"action on an endpoint", RuleFunction, func(m *machine) { m.call("HNSCall", "POST", "/endpoints/x/attach", "{}") }},
		{"handle that was closed", RuleHandle, func(m *machine) {
			system := m.create(m.argon("c"))
			m.must(OK, "HcsCloseComputeSystem", system)
			m.call("HcsCloseComputeSystem", system)
		}},
		{"handle", RuleHandle, func(m *machine) { m.call("HcsStartComputeSystem", 4711, "") }},
		{"handle of another kind", RuleHandle, func(m *machine) { m.call("HcsTerminateProcess", m.create(m.argon("c"))) }},
		{"network handle", RuleHandle, func(m *machine) { m.call("HcnCloseNetwork", 4711) }},
		{"document that is no JSON", RuleJSON, func(m *machine) { m.call("HcsCreateComputeSystem", "c", "{") }},
		{"document that is a list", RuleType, func(m *machine) { m.call("HcsCreateComputeSystem", "c", "[]") }},
		{"process that is no JSON", RuleJSON, func(m *machine) { m.call("HcsCreateProcess", m.start(m.argon("c")), "x") }},
		{"query of systems that is no JSON", RuleJSON, func(m *machine) { m.call("HcsEnumerateComputeSystems", "x") }},
		{"member of a query of systems", RuleMember, func(m *machine) { m.call("HcsEnumerateComputeSystems", `{"Owner":["airlock"]}`) }},
		{"query of properties that is no JSON", RuleJSON, func(m *machine) { m.call("HcsGetComputeSystemProperties", m.create(m.argon("c")), "x") }},
		{"member of a query of properties", RuleMember, func(m *machine) {
			m.call("HcsGetComputeSystemProperties", m.create(m.argon("c")), `{"Types":["Statistics"]}`)
		}},
		{"property", RuleUnsimulated, func(m *machine) {
			m.call("HcsGetComputeSystemProperties", m.create(m.argon("c")), `{"PropertyTypes":["GuestConnection"]}`)
		}},
		{"query of networks that is no JSON", RuleJSON, func(m *machine) { m.call("HcnEnumerateNetworks", "x") }},
		{"id in use", RuleName, func(m *machine) {
			doc := m.argon("c")
			m.create(doc)
			text, _ := json.Marshal(doc)
			m.call("HcsCreateComputeSystem", "c", string(text))
		}},
		{"start twice", RuleStart, func(m *machine) { m.call("HcsStartComputeSystem", m.start(m.argon("c")), "") }},
		{"process before start", RuleProcessState, func(m *machine) { m.call("HcsCreateProcess", m.create(m.argon("c")), `{"CommandLine":"exit 0"}`) }},
		{"no command line", RuleProcess, func(m *machine) { m.call("HcsCreateProcess", m.start(m.argon("c")), `{}`) }},
		{"application name", RuleUnsimulated, func(m *machine) {
			m.call("HcsCreateProcess", m.start(m.argon("c")), `{"CommandLine":"exit 0","ApplicationName":"C:\\x.exe"}`)
		}},
		{"console and stderr", RuleProcess, func(m *machine) {
			m.call("HcsCreateProcess", m.start(m.argon("c")), `{"CommandLine":"exit 0","EmulateConsole":true,"CreateStdErrPipe":true}`)
		}},
		{"member of a process", RuleMember, func(m *machine) {
			m.call("HcsCreateProcess", m.start(m.argon("c")), `{"CommandLine":"exit 0","WorkDir":"x"}`)
		}},
		{"modification of a process", RuleProcess, func(m *machine) {
			p := m.must(OK, "HcsCreateProcess", m.start(m.argon("c")), `{"CommandLine":"run"}`)[0]
			m.call("HcsModifyProcess", p, `{"Operation":"CloseHandle","CloseHandle":{"Handle":"StdOut"}}`)
		}},

		{"base without privileges", RulePrivileges, func(m *machine) { m.held = backupPrivilege; m.call("ProcessBaseImage", `C:\l\base`) }},
		{"import without privileges", RulePrivileges, func(m *machine) { m.held = 0; m.call("ImportLayer", `C:\l\x`, `C:\transport\top`, chain) }},
		{"utility VM without privileges", RulePrivileges, func(m *machine) { m.held = 0; m.call("ProcessUtilityImage", `C:\l\base\UtilityVM`) }},
		{"base without hives", RuleLayerFiles, func(m *machine) { m.call("ProcessBaseImage", `C:\data`) }},
		{"utility VM without files", RuleLayerFiles, func(m *machine) { m.call("ProcessUtilityImage", `C:\data`) }},
		{"import onto a layer", RuleExists, func(m *machine) { m.call("ImportLayer", `C:\l\top`, `C:\transport\top`, chainOf("base")) }},
		{"import in the wrong order", RuleLayerOrder, func(m *machine) { m.call("ImportLayer", `C:\l\x`, `C:\transport\top`, chainOf("base", "middle")) }},
		{"layer elsewhere", RulePath, func(m *machine) { m.call("DestroyLayer", `Z:\`) }},
		{"layer above", RulePath, func(m *machine) { m.call("DestroyLayer", `C:\l\..\..`) }},
		{"scratch in the wrong order", RuleLayerOrder, func(m *machine) { m.call("CreateSandboxLayer", `C:\s\x`, chainOf("base", "middle", "top")) }},
		{"scratch in a layer", RuleExists, func(m *machine) { m.call("CreateSandboxLayer", `C:\l\top`, chain) }},
		{"import onto a scratch", RuleExists, func(m *machine) { m.call("ImportLayer", m.scratch("a"), `C:\transport\top`, chainOf("base")) }},
		{"scratch twice", RuleExists, func(m *machine) { m.call("CreateSandboxLayer", m.scratch("a"), chain) }},
		{"activate twice", RuleActivate, func(m *machine) { p, _ := m.mounted("a"); m.call("ActivateLayer", p) }},
		{"activate in use", RuleActivate, func(m *machine) { doc := m.xenon("c"); m.create(doc); m.call("ActivateLayer", doc["LayerFolderPath"]) }},
		{"activate after a Hyper-V container", RuleMountedOnHost, func(m *machine) { m.call("ActivateLayer", m.used()) }},
		{"attach after a Hyper-V container", RuleMountedOnHost, func(m *machine) { m.call("AttachVirtualDisk", m.used()+`\sandbox.vhdx`, 0) }},
		{"prepare before activate", RulePrepare, func(m *machine) { m.call("PrepareLayer", m.scratch("a"), chain) }},
		{"prepare twice", RulePrepare, func(m *machine) { p, _ := m.mounted("a"); m.call("PrepareLayer", p, chain) }},
		{"prepare with other layers", RulePrepare, func(m *machine) {
			p := m.scratch("a")
			m.must(OK, "ActivateLayer", p)
			m.call("PrepareLayer", p, chainOf("middle", "base"))
		}},
		{"unprepare in use", RuleUnprepare, func(m *machine) { doc := m.argon("c"); m.create(doc); m.call("UnprepareLayer", doc["LayerFolderPath"]) }},
		{"deactivate prepared", RuleDeactivate, func(m *machine) { p, _ := m.mounted("a"); m.call("DeactivateLayer", p) }},
		{"detach in use", RuleDeactivate, func(m *machine) {
			doc := m.xenon("c")
			m.create(doc)
			m.call("DetachVirtualDisk", doc["LayerFolderPath"].(string)+`\sandbox.vhdx`, 0)
		}},
		{"expand to less", RuleExpand, func(m *machine) { m.call("ExpandSandboxSize", m.scratch("a"), 1<<30) }},
		{"expand mounted", RuleExpand, func(m *machine) { p, _ := m.mounted("a"); m.call("ExpandSandboxSize", p, 1<<40) }},
		{"expand in use", RuleExpand, func(m *machine) { m.call("ExpandSandboxSize", m.running(), 1<<40) }},
		{"attach in use", RuleExpand, func(m *machine) { m.call("AttachVirtualDisk", m.running()+`\sandbox.vhdx`, 0) }},
		{"attach mounted", RuleExpand, func(m *machine) { p, _ := m.mounted("a"); m.call("AttachVirtualDisk", p+`\sandbox.vhdx`, 0) }},
		{"attach another disk", RulePath, func(m *machine) { m.call("AttachVirtualDisk", `C:\data\x.vhdx`, 0) }},
		{"destroy mounted", RuleDestroy, func(m *machine) { p, _ := m.mounted("a"); m.call("DestroyLayer", p) }},
		{"destroy in use", RuleDestroy, func(m *machine) { doc := m.xenon("c"); m.create(doc); m.call("DestroyLayer", doc["LayerFolderPath"]) }},
		{"destroy the drive", RuleDestroy, func(m *machine) { m.call("DestroyLayer", `C:\`) }},
		{"destroy a folder of layers", RuleDestroy, func(m *machine) { m.call("DestroyLayer", `C:\l`) }},
		{"destroy a folder of scratches", RuleDestroy, func(m *machine) { m.scratch("a"); m.call("DestroyLayer", `C:\s`) }},
		{"destroy a parent", RuleDestroy, func(m *machine) { m.scratch("a"); m.call("DestroyLayer", `C:\l\middle`) }},
		{"destroy a parent of a renamed scratch", RuleDestroy, func(m *machine) {
			m.scratch("a")
			require.NoError(m.t, os.Rename(filepath.Join(m.drive, "s/a"), filepath.Join(m.drive, "s/a-removing")))
			m.call("DestroyLayer", `C:\l\middle`)
		}},
		{"rename in use", RuleMoved, func(m *machine) {
			m.start(m.xenon("a"))
			require.NoError(m.t, os.Rename(filepath.Join(m.drive, "s/a"), filepath.Join(m.drive, "s/b")))
			m.call("DestroyLayer", `C:\s\b`)
		}},
		{"rename mounted", RuleMoved, func(m *machine) {
			m.mounted("a")
			require.NoError(m.t, os.Rename(filepath.Join(m.drive, "s/a"), filepath.Join(m.drive, "s/b")))
			m.call("UnprepareLayer", `C:\s\b`)
		}},

		{"network type", RuleNetwork, func(m *machine) { m.call("HNSCall", "POST", "/networks/", `{"Name":"n","Type":"bridge"}`) }},
		{"network member", RuleMember, func(m *machine) { m.call("HNSCall", "POST", "/networks/", `{"Name":"n","Type":"nat","Subnet":[]}`) }},
		{"prefix", RuleNetwork, func(m *machine) { m.hnsNetwork("10.1.0.0", "10.1.0.1") }},
		{"gateway", RuleNetwork, func(m *machine) { m.hnsNetwork("10.1.0.0/16", "here") }},
		{"prefix in HCN", RuleNetwork, func(m *machine) { m.hcnNetwork("10.1.0.0", `{"NextHop":"10.1.0.1"}`) }},
		{"no route in HCN", RuleNetwork, func(m *machine) { m.hcnNetwork("10.1.0.0/16", "") }},
		{"gateway in HCN", RuleNetwork, func(m *machine) { m.hcnNetwork("10.1.0.0/16", `{"NextHop":"here"}`) }},
		{"network schema", RuleNetwork, func(m *machine) { m.call("HcnCreateNetwork", GUID{}, `{"Name":"n","Type":"NAT"}`) }},
		{"overlapping networks", RuleNetwork, func(m *machine) {
			m.network()
			m.hnsNetwork("10.1.0.0/16", "10.1.0.1")
		}},
		{"gateway elsewhere", RuleNetwork, func(m *machine) { m.hnsNetwork("10.1.0.0/16", "10.2.0.1") }},
		{"network with endpoints", RuleNetwork, func(m *machine) {
			m.endpoint()
			for id := range m.service.networks.networks {
				m.call("HNSCall", "DELETE", "/networks/"+id, "")
			}
		}},
		{"endpoint without network", RuleEndpointDocument, func(m *machine) { m.call("HNSCall", "POST", "/endpoints/", `{"Name":"e"}`) }},
		{"address elsewhere", RuleEndpointDocument, func(m *machine) { m.hnsEndpoint("10.2.0.5") }},
		{"no address", RuleEndpointDocument, func(m *machine) { m.hnsEndpoint("here") }},
		{"address in use", RuleEndpointDocument, func(m *machine) { m.hnsEndpoint("10.1.0.1") }},
		{"no address in HCN", RuleEndpointDocument, func(m *machine) {
			n := m.network()
			m.call("HcnCreateEndpoint", n, GUID{}, `{"HostComputeNetwork":"`+m.networkID(n)+`","IpConfigurations":[{"IpAddress":"here"}]}`)
		}},
		{"another network in HCN", RuleEndpointDocument, func(m *machine) {
			m.call("HcnCreateEndpoint", m.network(), GUID{}, `{"HostComputeNetwork":"`+GUID{}.String()+`"}`)
		}},
		{"policy of an endpoint", RuleUnsimulated, func(m *machine) { m.policy(`{"Type":"QOS","MaximumOutgoingBandwidthInBytes":1}`) }},
		{"member of a policy", RuleMember, func(m *machine) {
			m.policy(`{"Type":"ACL","Action":"Block","Direction":"Out","RemoteAddress":"10.0.0.0/8"}`)
		}},
		{"action of a policy", RuleEndpointDocument, func(m *machine) { m.policy(`{"Type":"ACL","Action":"Deny","Direction":"Out"}`) }},
		{"policy of a network", RuleUnsimulated, func(m *machine) {
			m.call("HNSCall", "POST", "/networks/", `{"Name":"m","Type":"nat","Policies":[{"Type":"VLAN","VLAN":1}]}`)
		}},
		{"policy of a network in HCN", RuleUnsimulated, func(m *machine) {
			m.call("HcnCreateNetwork", GUID{}, `{"Name":"m","Type":"NAT","SchemaVersion":{"Major":2},"Policies":[{}]}`)
		}},
		{"policy in HCN", RuleUnsimulated, func(m *machine) {
			n := m.network()
			m.call("HcnCreateEndpoint", n, GUID{}, `{"HostComputeNetwork":"`+m.networkID(n)+`","Policies":[{"Type":"ACL"}]}`)
		}},
		{"endpoint in use", RuleEndpointDocument, func(m *machine) {
			doc := m.argon("c")
			id := m.endpoint()
			doc["EndpointList"] = []string{id}
			m.create(doc)
			m.call("HNSCall", "DELETE", "/endpoints/"+id, "")
		}},
	}
}

// TestRules tries every wrong use that the service knows once: each is refused, by the rule that it breaks, and kept.
func TestRules(t *testing.T) {
	tried, places := map[Rule]bool{}, map[string]bool{}
	expect := func(t *testing.T, m *machine, rule Rule) {
		t.Helper()
		broken := m.service.Broken()
		require.Len(t, broken, 1, "%v", broken)
		var refusal *Refusal
		require.True(t, errors.As(broken[0], &refusal))
		require.Equal(t, rule, refusal.Rule, "%v", broken[0])
		if m.result == OK { // HNS v1 says in its answer what fails
			require.Contains(t, m.reply[0], `"Success":false`)
		} else {
			require.Equal(t, refusal.HRESULT, m.result)
			require.NotEqual(t, Pending, m.result)
		}
		tried[rule], places[refusal.at] = true, true
	}
	for _, test := range documentBreaches() {
		t.Run("document/"+test.name, func(t *testing.T) {
			m := newMachine(t)
			doc := m.argon("c")
			if test.xenon {
				doc = m.xenon("d")
			}
			id := doc["Name"].(string)
			test.spoil(m, doc)
			text, err := json.Marshal(doc)
			require.NoError(t, err)
			_, reply := m.call("HcsCreateComputeSystem", id, string(text))
			require.Contains(t, reply[1], "ErrorMessage")
			expect(t, m, test.rule)
		})
	}
	for _, test := range callBreaches() {
		t.Run("call/"+test.name, func(t *testing.T) {
			m := newMachine(t)
			test.do(m)
			expect(t, m, test.rule)
		})
	}
	for _, rule := range allRules(t) {
		require.True(t, tried[rule], "no test breaks the rule %q", rule)
	}
	for _, place := range breaches(t) {
		assert.True(t, places[place], "no test comes to %s", place)
	}
}

// TestMovedIsNoted: a mounted scratch that was renamed is found without a call for it, and once.
func TestMovedIsNoted(t *testing.T) {
	m := newMachine(t)
	m.mounted("a")
	require.NoError(t, os.Rename(filepath.Join(m.drive, "s/a"), filepath.Join(m.drive, "s/b")))
	m.service.Leaks()
	require.Contains(t, strings.Join(m.service.Leaks(), "\n"), `C:\s\b is mounted`)
	require.Len(t, m.service.Broken(), 1)
}

// breaches reads from the source where rules are found broken, so that no clause of one is forgotten here.
func breaches(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var places []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(node ast.Node) bool {
			if call, ok := node.(*ast.CallExpr); ok {
				if function, ok := call.Fun.(*ast.Ident); ok && function.Name == "broken" {
					places = append(places, fmt.Sprintf("%s:%d", name, set.Position(call.Pos()).Line))
				}
			}
			return true
		})
	}
	require.NotEmpty(t, places)
	return places
}

// allRules reads the rules from their source, so that none is forgotten here.
func allRules(t *testing.T) []Rule {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "rules.go", nil, parser.ParseComments)
	require.NoError(t, err)
	var rules []Rule
	ast.Inspect(file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok {
			require.Contains(t, spec.Doc.Text(), "Source:", "%s has no source", spec.Names[0])
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			rules = append(rules, Rule(text))
		}
		return true
	})
	require.NotEmpty(t, rules)
	return rules
}
