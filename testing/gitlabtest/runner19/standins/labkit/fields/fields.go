// Package fields stands in for LabKit's names of log fields. It gives the two names that the runner's packages use,
// and no table of deprecated ones: every log field keeps the name under which the runner writes it.
package fields

// Names of fields in logs.
const (
	HTTPStatusCode = "status"
	DurationS      = "duration_s"
)

// Deprecation says which field takes the place of a deprecated one.
type Deprecation struct{ Standard string }

// Deprecated maps deprecated names; VariantVersion tells since which version of the schema a name is in use.
var (
	Deprecated     = map[string]Deprecation{}
	VariantVersion = map[string]int{}
)
