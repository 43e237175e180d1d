package service

// Rule names something that a correct client never does. A call that breaks one is refused and kept for Broken, so that
// the test fails. Each comment says where the rule comes from.
type Rule string

const (
	// RuleFunction: a function that is not simulated. Source: none; it is the simulator's own limit.
	RuleFunction Rule = "function"
	// RuleHandle: a handle that was never given, or closed before. Source: HCS reference, E_HANDLE; hcsshim
	// internal/hcs/errors.go, ErrInvalidHandle.
	RuleHandle Rule = "handle"
	// RuleStart: starting what was started before. Source: hcsshim internal/hcs/system.go, Start: a system that has
	// exited is not started again; HCS_E_INVALID_STATE.
	RuleStart Rule = "start"
	// RuleProcessState: a process in a system that does not run. Source: hcsshim internal/hcs/errors.go,
	// ErrVmcomputeOperationInvalidState; containerd issue 5188.
	RuleProcessState Rule = "process before start"

	// RuleJSON: text that is no JSON. Source: ErrVmcomputeInvalidJSON.
	RuleJSON Rule = "document: JSON"
	// RuleMember: a member that a document, a query or a policy does not have. Source: hcsshim
	// internal/hcs/schema1/schema1.go; hcn/hcn.go; internal/hns/hnspolicy.go.
	RuleMember Rule = "document: unknown member"
	// RuleType: a member of the wrong type. Source: as RuleMember.
	RuleType Rule = "document: type of a member"
	// RuleSystemType: anything but "Container". Source: schema1.go, "HCS requires this to be hard-coded".
	RuleSystemType Rule = "document: SystemType"
	// RuleName: a Name that is not the system's id, or an id in use. Source: moby, libcontainerd/local/local_windows.go,
	// sets Name to the id; HCS_E_SYSTEM_ALREADY_EXISTS.
	RuleName Rule = "document: Name"
	// RuleLayers: no layers, or one of them twice. Source: schema1.go, "Required for Windows Server and Hyper-V
	// Containers".
	RuleLayers Rule = "document: Layers"
	// RuleLayerID: a layer's ID is not NameToGuid of its folder's name. Source: hcsshim internal/wclayer/layerid.go;
	// moby local_windows.go makes the same of each.
	RuleLayerID Rule = "layer id"
	// RuleLayerOrder: not upper-most first and base last. Source: hcsshim internal/wclayer/legacy.go clones from
	// parentRoots[0]; containerd's windows snapshotter takes the last as the base.
	RuleLayerOrder Rule = "layer order"
	// RuleLayerFiles: a layer without Files, or one that was not processed. Source: hcsshim
	// internal/wclayer/processimage.go; legacy.go.
	RuleLayerFiles Rule = "layer files"
	// RuleLayerFolder: LayerFolderPath is missing, or no scratch made with these layers. Source: schema1.go; moby
	// local_windows.go sets it for both isolations.
	RuleLayerFolder Rule = "document: LayerFolderPath"
	// RuleVolume: a process container's VolumePath is not its scratch's volume, or ends in a backslash; or a Hyper-V
	// container has one. Source: schema1.go, "Format \\?\\Volume{GUID}"; moby local_windows.go strips the backslash.
	RuleVolume Rule = "document: VolumePath"
	// RulePrepared: a process container's scratch is not prepared. Source: moby daemon/graphdriver/windows, Get, before
	// every start.
	RulePrepared Rule = "scratch not prepared"
	// RuleHvRuntime: a process container has HvRuntime; a Hyper-V container has none, or an ImagePath that is not the
	// UtilityVM of the upper-most layer with one, or was not processed. Source: moby local_windows.go,
	// createWindows: it searches the layers upper-most first; hcsshim internal/wclayer/processimage.go.
	RuleHvRuntime Rule = "document: HvRuntime"
	// RuleMountedOnHost: the scratch of a Hyper-V container is mounted on the host, or was once used by one and is mounted
	// there later. Source: moby oci_windows.go, "to protect the host from the container".
	RuleMountedOnHost Rule = "scratch of a Hyper-V container mounted on the host"
	// RuleProcessors: more than one of count, weight and maximum in a process container, or a value out of its range.
	// Source: moby daemon_windows.go, verifyPlatformContainerResources; schema1.go, "Range is from 1 to 10000".
	RuleProcessors Rule = "document: processors"
	// RuleMapped: a mapped directory's host path is missing, no directory, or leads through a link; its container path is
	// not absolute, a drive's root, or has steps up. Source: hcsshim issue 162, containerd issue 4915; the last two are the
	// simulator's own strictness.
	RuleMapped Rule = "document: MappedDirectories"
	// RuleEndpoint: an endpoint that does not exist, or is attached elsewhere. Source: HCN_E_ENDPOINT_NOT_FOUND;
	// hcsshim internal/hns/hnsendpoint.go, EndpointState.
	RuleEndpoint Rule = "document: EndpointList"
	// RuleUnsimulated: a member, property or policy that v1 has and the simulator does not know how to honour. Source: none.
	RuleUnsimulated Rule = "document: not simulated"

	// RuleProcess: no command line, a console together with a pipe for stderr, or a modification that there is not. Source:
	// moby libcontainerd/local/local_windows.go, createProcess; hcsshim internal/hcs/schema2/process_modify_request.go.
	RuleProcess Rule = "process document"

	// RulePath: a layer outside of the client's C:. Source: none; the simulator removes folders, and no others.
	RulePath Rule = "path"
	// RulePrivileges: import without the privileges for backup and restore. Source: hcsshim
	// internal/wclayer/importlayer.go, NewLayerWriter; moby commit f66f555ad4.
	RulePrivileges Rule = "privileges"
	// RuleExists: a scratch or a layer is made where there is one. Source: ERROR_FILE_EXISTS.
	RuleExists Rule = "exists"
	// RuleActivate: activating twice, or what a system uses. Source: hcsshim issue 2553 and docker/for-win issue 7591,
	// sharing violation.
	RuleActivate Rule = "activate"
	// RulePrepare: preparing before activating, twice, or with other layers than the scratch was made with. Source:
	// hcsshim internal/wclayer/preparelayer.go, "finds a mounted read-write layer".
	RulePrepare Rule = "prepare"
	// RuleUnprepare: unpreparing what a system uses. Source: as RuleActivate.
	RuleUnprepare Rule = "unprepare"
	// RuleDeactivate: deactivating what is prepared. Source: moby daemon/graphdriver/windows, Put: unprepare, then
	// deactivate.
	RuleDeactivate Rule = "deactivate"
	// RuleExpand: a size below the present one, or of a scratch in use. Source: hcsshim
	// internal/wclayer/expandscratchsize.go, "to at least size bytes".
	RuleExpand Rule = "expand"
	// RuleDestroy: destroying what is mounted, in use, a parent of a scratch, or no layer but a folder of layers. Source: moby
	// daemon/graphdriver/windows, Remove; moby issues 30278 and 42521; the last is the simulator's own strictness.
	RuleDestroy Rule = "destroy"
	// RuleMoved: a scratch was renamed while its disk was attached, or a container had it. Source: as RuleDestroy.
	RuleMoved Rule = "moved while mounted"

	// RuleNetwork: a network document that cannot be honoured: unknown type, no or overlapping subnets, one that has
	// endpoints is deleted. Source: hcsshim hcn/hcnnetwork.go, internal/hns/hnsnetwork.go; Microsoft's HCN reference.
	RuleNetwork Rule = "network"
	// RuleEndpointDocument: an endpoint of an unknown network, an address outside its subnet or in use; one that a
	// running container has is deleted. Source: hcsshim hcn/hcnendpoint.go; the last is the simulator's own strictness.
	RuleEndpointDocument Rule = "endpoint"
)
