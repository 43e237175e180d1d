// Package value stands in for the values of job inputs: what JSON can say, and objects that look up their own
// attributes.
package value

import (
	"encoding/json"
	"errors"
	"iter"
)

// Errors of looking up an attribute.
var (
	ErrAttributeNotFound = errors.New("attribute not found")
	ErrInvalidKey        = errors.New("invalid key")
)

// Kind is the kind of a value.
type Kind int

const (
	NullKind Kind = iota
	StringKind
	NumberKind
	BoolKind
	ArrayKind
	ObjectKind
)

func (k Kind) String() string {
	return [...]string{"null", "string", "number", "boolean", "array", "object"}[k]
}

// Mapper is an object that looks up its own attributes.
type Mapper interface {
	All() iter.Seq2[Value, Value]
	Attr(name string) (Value, error)
	Get(key Value) (Value, error)
	Keys() iter.Seq[Value]
	Len() int
	Values() iter.Seq[Value]
	WithMarks(marks uint16) Mapper
}

// Value is a value with marks, such as that it is a secret; the zero value is null.
type Value struct {
	content any // as encoding/json decodes it, or a Mapper
	marks   uint16
}

func Null() Value                      { return Value{} }
func String(s string) Value            { return Value{content: s} }
func Object(m Mapper) Value            { return Value{content: m} }
func (v Value) HasMarks(m uint16) bool { return v.marks&m != 0 }

// WithMarks returns the value with further marks.
func (v Value) WithMarks(marks uint16) Value {
	v.marks |= marks
	return v
}

// Attr returns an attribute of a Mapper; other values have none.
func (v Value) Attr(name string) (Value, error) {
	if m, ok := v.content.(Mapper); ok {
		return m.Attr(name)
	}
	return Null(), ErrAttributeNotFound
}

// Kind returns the value's kind.
func (v Value) Kind() Kind {
	switch v.content.(type) {
	case nil:
		return NullKind
	case string:
		return StringKind
	case float64:
		return NumberKind
	case bool:
		return BoolKind
	case []any:
		return ArrayKind
	default:
		return ObjectKind
	}
}

// String returns a string as it is, and any other value as JSON.
func (v Value) String() string {
	if s, ok := v.content.(string); ok {
		return s
	}
	text, err := json.Marshal(v.content)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (v Value) MarshalJSON() ([]byte, error)     { return json.Marshal(v.content) }
func (v *Value) UnmarshalJSON(text []byte) error { return json.Unmarshal(text, &v.content) }
