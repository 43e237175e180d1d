package service

import (
	"encoding/json"
	"slices"
)

// document is a v1 document of a container, as far as the simulator honours it. Its members are those of hcsshim's
// ContainerConfig.
type document struct {
	SystemType, Name, Owner, VolumePath, LayerFolderPath string
	IgnoreFlushesDuringBoot                              bool
	Layers                                               []struct{ ID, Path string }
	ProcessorCount                                       uint32
	ProcessorWeight                                      uint64
	ProcessorMaximum                                     int64
	StorageIOPSMaximum, StorageBandwidthMaximum          uint64
	StorageSandboxSize                                   uint64
	MemoryMaximumInMB                                    int64
	HostName                                             string
	MappedDirectories                                    []struct {
		HostPath, ContainerPath          string
		ReadOnly                         bool
		BandwidthMaximum, IOPSMaximum    uint64
		CreateInUtilityVM, LinuxMetadata bool
	}
	HvPartition                 bool
	EndpointList                []string
	HvRuntime                   *hvRuntime
	AllowUnqualifiedDNSQuery    bool
	DNSSearchList               string
	TerminateOnLastHandleClosed bool

	mapped []Mapped // MappedDirectories, judged
}

type hvRuntime struct {
	ImagePath    string
	SkipTemplate bool
}

// unsimulated are the members of v1 that the simulator cannot honour. Source: hcsshim
// internal/hcs/schema1/schema1.go, ContainerConfig.
var unsimulated = []string{
	"Credentials", "MappedPipes", "NetworkSharedContainerName", "Servicing", "ContainerType", "MappedVirtualDisks", "AssignedDevices",
}

// parseDocument reads a document and refuses what v1 does not know. Names count exactly.
func parseDocument(text string) (document, error) {
	var doc document
	var members map[string]json.RawMessage
	if err := strictly([]byte(text), &members); err != nil {
		return doc, err
	}
	for _, name := range unsimulated {
		if value, there := members[name]; there && !zeroJSON(value) {
			return doc, broken(RuleUnsimulated, NotSupported, "%s", name)
		}
		delete(members, name)
	}
	left, err := json.Marshal(members)
	if err == nil {
		err = strictly(left, &doc)
	}
	return doc, err
}

func zeroJSON(value json.RawMessage) bool {
	return slices.Contains([]string{"null", "false", "0", `""`, "[]", "{}"}, string(value))
}
