package config

import (
	"slices"
	"strings"
)

// isTable reports whether name is a table of the configuration: "network", "cache".
func isTable(name string) bool { return slices.Contains(tables(allKeys()), name) }

// allKeys returns the keys of all tables.
func allKeys() []key { return append(keys(), policyKeys()...) }

// tables returns the names of all tables, in the order of their keys.
func tables(known []key) []string {
	var names []string
	for _, k := range known {
		if dot := strings.LastIndexByte(k.name, '.'); dot >= 0 && !slices.Contains(names, k.name[:dot]) {
			names = append(names, k.name[:dot])
		}
	}
	return names
}

// nearestKey returns the remedy for an unknown key that resembles a known one, wherever that stands; empty if none does.
func nearestKey(name string, known []key) string {
	var names []string
	for _, k := range known {
		names = append(names, k.name)
	}
	if best := nearest(name, names); best != "" {
		return "did you mean " + describe(best) + "?"
	}
	return ""
}

// tableNames are all tables, lists of tables in brackets of their own.
func tableNames() []string {
	return append(tables(allKeys()), "["+rulesTable+"]", "["+socketsTable+"]")
}

// nearestTable is nearestKey for tables.
func nearestTable(name string) string {
	if best := nearest(name, tableNames()); best != "" {
		return "did you mean [" + best + "]?"
	}
	return ""
}

// describe names a key as an administrator would write it: "bridge in [network]".
func describe(name string) string {
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
		return name[dot+1:] + " in [" + name[:dot] + "]"
	}
	return name
}

// nearest returns the known name within the fewest edits of name, compared as a whole and by last part
// (a key in the wrong table); empty when nothing is near.
func nearest(name string, known []string) string {
	if len(name) > 64 {
		return ""
	}
	best, fewest := "", len(name)
	for _, candidate := range known {
		whole := edits(name, candidate)
		last := edits(lastPart(name), lastPart(candidate))
		n := min(whole, last)
		if n < fewest && n <= max(1, len(lastPart(candidate))/3) {
			best, fewest = candidate, n
		}
	}
	return best
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// edits is the Levenshtein distance of a and b in bytes, dashes counting as underscores.
func edits(a, b string) int {
	a, b = normal(a), normal(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func normal(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }
