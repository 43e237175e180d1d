package config

import (
	"slices"
	"strings"
)

// listedKey is one key of the tables of a list, [[policy.rules]] say, and what sets it.
type listedKey[T any] struct {
	name string
	set  func(item *T, r *reading)
}

// readListed reads one table of a list.
func readListed[T any](table listedTable, list string, keys []listedKey[T], all *Error) T {
	var item T
	for _, e := range table.entries {
		name := e.key
		e.key = list + "." + name
		i := slices.IndexFunc(keys, func(k listedKey[T]) bool { return k.name == name })
		if i < 0 {
			message, remedy := unknownListedKey(name, list, keys)
			all.add(e.keyAt, e.key, message, remedy)
			continue
		}
		keys[i].set(&item, &reading{entry: e, all: all})
	}
	return item
}

func unknownListedKey[T any](name, list string, keys []listedKey[T]) (message, remedy string) {
	if remedy := dockerKey(name); remedy != "" {
		return ofDocker, remedy
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	if best := nearest(name, names); best != "" {
		return "unknown key", "did you mean " + best + "?"
	}
	return "unknown key", "remove it; the keys of [[" + list + "]] are " + strings.Join(names, ", ")
}

// find returns where the value of a key stands, else where the table begins.
func (t listedTable) find(name string) position {
	if i := slices.IndexFunc(t.entries, func(e entry) bool { return e.key == name }); i >= 0 {
		return t.entries[i].at
	}
	return t.at
}
