package cache

import (
	"fmt"
	"maps"
	"slices"
)

// What of an image a sandbox cannot have.
const (
	omittedDevice      = "device node"
	omittedAttribute   = "extended attribute that file systems cannot hold"
	omittedEnvironment = "environment entry that is not NAME=value:"
)

// omitted counts what of an image or a layer was left out, by kind.
type omitted map[string]omission

type omission struct {
	Count int `json:"count"`
	// First is where the first of them is, fit for messages.
	First string `json:"first"`
}

func (o *omitted) add(kind, where string) {
	o.addAll(omitted{kind: {Count: 1, First: printable(where, 100)}})
}

func (o *omitted) addAll(more omitted) {
	for kind, m := range more {
		if *o == nil {
			*o = omitted{}
		}
		sum := (*o)[kind]
		if sum.Count == 0 {
			sum.First = m.First
		}
		sum.Count += m.Count
		(*o)[kind] = sum
	}
}

// warnings returns what the job log says was left out of an image, one warning for each kind.
func (o omitted) warnings(image string) (lines []string) {
	for _, kind := range slices.Sorted(maps.Keys(o)) {
		line := fmt.Sprintf("left out of image %s: %s %s", image, kind, o[kind].First)
		if more := o[kind].Count - 1; more > 0 {
			line += fmt.Sprintf(" and %d more", more)
		}
		lines = append(lines, line)
	}
	return lines
}
