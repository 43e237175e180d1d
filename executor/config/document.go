package config

import (
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// entry is one key of the document with its value and where both stand.
type entry struct {
	key   string // dotted: "network.bridge"
	value any    // as go-toml decodes it: string, int64, float64, bool, []any, map[string]any, a time
	keyAt position
	at    position // of the value; of the key where the parser gives none
	items []position
}

// readDocument returns the document's keys in their order. The values are go-toml's own decoding; its parser
// is walked a second time for the positions, which the decoder keeps to itself. A document that is no TOML is
// one problem and has no entries.
func readDocument(data []byte, all *Error) []entry {
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		all.add(syntaxProblem(err))
		return nil
	}
	w := walk{values: values, all: all}
	w.parser.Reset(data)
	var table []string
	for w.parser.NextExpression() {
		node := w.parser.Expression()
		switch node.Kind {
		case unstable.Table:
			table, _ = w.path(nil, node.Key())
			w.table(table, node)
		case unstable.ArrayTable:
			table, _ = w.path(nil, node.Key())
			w.arrayTable(table, node)
		case unstable.KeyValue:
			if !w.skip {
				w.keyValue(table, node)
			}
		}
	}
	return w.entries
}

func syntaxProblem(err error) (at position, key, message, remedy string) {
	at = position{1, 1}
	message = strings.TrimPrefix(err.Error(), "toml: ")
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		at.line, at.column = decode.Position()
		key = dotted(decode.Key())
	}
	return at, key, message, "correct the TOML syntax (strings stand in quotes, each key once)"
}

// walk collects entries from the parser's expressions.
type walk struct {
	parser  unstable.Parser
	values  map[string]any
	entries []entry
	all     *Error
	skip    bool // below a table that was reported as a whole
}

// table starts [path]. One that Airlock does not know is reported once, without its keys.
func (w *walk) table(path []string, node *unstable.Node) {
	name := dotted(path)
	w.skip = !isTable(name)
	if w.skip {
		w.all.add(w.at(node.Key()), name, "unknown table", suggestTable(name))
	}
}

func (w *walk) arrayTable(path []string, node *unstable.Node) {
	name := dotted(path)
	w.skip = true
	switch {
	case isTable(name):
		w.all.add(w.at(node.Key()), name, "is a single table", "write ["+name+"]")
	case name == "runners":
		w.all.add(w.at(node.Key()), name, "unknown table: this looks like GitLab Runner's own config.toml",
			"keep [[runners]] in that file; Airlock's settings stand at the top level of "+DefaultPath)
	default:
		w.all.add(w.at(node.Key()), name, "unknown table", suggestTable(name))
	}
}

func (w *walk) keyValue(table []string, node *unstable.Node) {
	path, keyAt := w.path(table, node.Key())
	name := dotted(path)
	value := node.Value()
	if value.Kind == unstable.InlineTable && isTable(name) {
		for it := value.Children(); it.Next(); {
			w.keyValue(path, it.Node())
		}
		return
	}
	if isTable(name) {
		w.all.add(keyAt, name, "is a table", "write ["+name+"] on a line of its own and its keys below")
		return
	}
	e := entry{key: name, value: w.lookup(path), keyAt: keyAt, at: keyAt}
	if value.Raw.Length > 0 {
		e.at = w.position(value)
	}
	for it := value.Children(); value.Kind == unstable.Array && it.Next(); {
		at := e.at
		if it.Node().Raw.Length > 0 {
			at = w.position(it.Node())
		}
		e.items = append(e.items, at)
	}
	w.entries = append(w.entries, e)
}

// path returns the parts of a key below table, and where the key begins.
func (w *walk) path(table []string, key unstable.Iterator) ([]string, position) {
	path := append([]string(nil), table...)
	at := w.at(key)
	for key.Next() {
		path = append(path, string(key.Node().Data))
	}
	return path, at
}

// at returns where a key begins; the iterator is a copy, so the caller's stays where it is.
func (w *walk) at(key unstable.Iterator) position {
	key.Next()
	return w.position(key.Node())
}

func (w *walk) position(node *unstable.Node) position {
	start := w.parser.Shape(node.Raw).Start
	return position{start.Line, start.Column}
}

func (w *walk) lookup(path []string) any {
	var value any = w.values
	for _, part := range path {
		table, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = table[part]
	}
	return value
}

// dotted writes a path as one name; a part with a dot of its own stays apart from a path.
func dotted(path []string) string {
	parts := make([]string, len(path))
	for i, part := range path {
		parts[i] = part
		if part == "" || strings.ContainsAny(part, ".\n") {
			parts[i] = quote(part)
		}
	}
	return strings.Join(parts, ".")
}
