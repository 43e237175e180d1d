package records

import (
	"github.com/airlock-ci/airlock/cache/space"
)

// Ref is what a name led to.
type Ref struct {
	Name string `json:"name"`
	// Resolved is the digest that the registry named: the image's or that of an index with it.
	Resolved string `json:"resolved"`
	Digest   string `json:"digest"` // of the image
	Repo     string `json:"repo"`
	// Variant is the processor for which the image was chosen, as in "v3", where the name leads to several; else empty.
	Variant string `json:"variant,omitempty"`
	// Imported is the digest of the pinned image that an administrator stored under this name before a registry delivered
	// another: the name leads to it again when that one has left the cache. Empty: there is none.
	Imported string `json:"imported,omitempty"`
}

// RefUse is what a name's record takes.
var RefUse = space.Use{Bytes: space.BlockSize, Inodes: 1}

// key tells the records of a name apart.
func (r *Ref) key() string { return refKey(r.Name, r.Variant) }

func refKey(name, variant string) string {
	if variant == "" {
		return name
	}
	return name + "\n" + variant
}
