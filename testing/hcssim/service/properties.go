package service

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

func (s *Service) enumerateSystems(c *call) ([]any, error) {
	var query struct{ Ids, Types, Names, Owners []string }
	if err := readQuery(c.text(0), &query); err != nil {
		return nil, err
	}
	matches := func(wanted []string, value string) bool {
		return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w string) bool { return strings.EqualFold(w, value) })
	}
	list := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(s.systems)) {
		sys := s.systems[id]
		if matches(query.Ids, id) && matches(query.Types, "Container") && matches(query.Names, sys.document.Name) &&
			matches(query.Owners, sys.document.Owner) {
			list = append(list, s.properties(sys))
		}
	}
	text, err := json.Marshal(list)
	return []any{string(text)}, err
}

func (s *Service) systemProperties(c *call) ([]any, error) {
	of, err := handle[*systemHandle](c, 0)
	if err != nil {
		return nil, err
	}
	var query struct{ PropertyTypes []string }
	if err := readQuery(c.text(1), &query); err != nil {
		return nil, err
	}
	properties := s.properties(of.system)
	for _, kind := range query.PropertyTypes {
		switch kind {
		case "Statistics":
			properties[kind] = of.system.statistics()
		case "ProcessList":
			properties[kind] = of.system.processList()
		default:
			return nil, broken(RuleUnsimulated, NotSupported, "the property %s", kind)
		}
	}
	text, err := json.Marshal(properties)
	return []any{string(text)}, err
}

// properties are what every query tells. Source: hcsshim internal/hcs/schema1/schema1.go, ContainerProperties.
func (s *Service) properties(sys *system) map[string]any {
	properties := map[string]any{
		"Id": sys.id, "State": string(sys.state), "Name": sys.document.Name, "SystemType": "Container",
		"RuntimeOsType": "Windows", "Owner": sys.document.Owner, "RuntimeId": s.vary.guid(sys.runtime.String()),
	}
	if sys.state == stopped {
		properties["Stopped"], properties["ExitType"] = true, "ForcedExit"
	}
	if sys.template {
		properties["IsRuntimeTemplate"] = true
	}
	if sys.document.HvRuntime != nil {
		properties["RuntimeImagePath"] = sys.document.HvRuntime.ImagePath
	}
	return properties
}

// statistics are made up: nothing is measured.
func (sys *system) statistics() map[string]any {
	return map[string]any{
		"Timestamp":          time.Now().UTC().Format(time.RFC3339Nano),
		"ContainerStartTime": sys.began.UTC().Format(time.RFC3339Nano),
		"Uptime100ns":        uint64(time.Since(sys.began) / 100),
		"Memory":             map[string]any{"MemoryUsageCommitBytes": 64 << 20, "MemoryUsageCommitPeakBytes": 80 << 20, "MemoryUsagePrivateWorkingSetBytes": 40 << 20},
		"Processor":          map[string]any{"TotalRuntime100ns": 5_000_000, "RuntimeUser100ns": 3_000_000, "RuntimeKernel100ns": 2_000_000},
		"Storage":            map[string]any{"ReadCountNormalized": 100, "ReadSizeBytes": 1 << 20, "WriteCountNormalized": 50, "WriteSizeBytes": 1 << 19},
	}
}
