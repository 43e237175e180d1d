package layer

import (
	"fmt"
	"maps"
	"slices"

	"github.com/airlock-ci/airlock/cache/untrusted"
)

// What of an image a sandbox cannot have.
const (
	omittedDevice      = "device node"
	omittedAttribute   = "extended attribute that file systems cannot hold"
	OmittedEnvironment = "environment entry that is not NAME=value:"
)

// Omitted counts what of an image or a layer was left out, by kind.
type Omitted map[string]omission

type omission struct {
	Count int `json:"count"`
	// First is where the first of them is, fit for messages.
	First string `json:"first"`
}

// Add counts one thing, by its kind and where it was.
func (o *Omitted) Add(kind, where string) {
	o.AddAll(Omitted{kind: {Count: 1, First: untrusted.Printable(where, 100)}})
}

// AddAll counts what was counted elsewhere.
func (o *Omitted) AddAll(more Omitted) {
	for kind, m := range more {
		if *o == nil {
			*o = Omitted{}
		}
		sum := (*o)[kind]
		if sum.Count == 0 {
			sum.First = m.First
		}
		sum.Count += m.Count
		(*o)[kind] = sum
	}
}

// Warnings returns what the job log says was left out of an image, one warning for each kind.
func (o Omitted) Warnings(image string) (lines []string) {
	for _, kind := range slices.Sorted(maps.Keys(o)) {
		line := fmt.Sprintf("left out of image %s: %s %s", image, kind, o[kind].First)
		if more := o[kind].Count - 1; more > 0 {
			line += fmt.Sprintf(" and %d more", more)
		}
		lines = append(lines, line)
	}
	return lines
}
