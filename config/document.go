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
	// rawOffset and rawLength are the range of the value's text in the file; a length of 0 is unknown.
	rawOffset, rawLength int
}

// document is what a file says.
type document struct {
	data    []byte
	entries []entry
	rules   []listedTable // [[policy.rules]]
	sockets []listedTable // [[sockets]]
	// hasPolicy is true when there is anything of [policy], an empty table included.
	hasPolicy bool
	// idTokenAt is where [policy.id_token] begins.
	idTokenAt position
}

// listedTable is one table of a list of tables; its entries have the keys "name", "limits.memory" and so on.
type listedTable struct {
	at      position
	entries []entry
}

// readDocument returns the document's keys in their order. The values are go-toml's own decoding; its parser
// is walked a second time for the positions, which the decoder keeps to itself. A document that is no TOML is
// one problem and has no entries.
func readDocument(data []byte, all *Error) document {
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		all.add(syntaxProblem(err))
		return document{}
	}
	w := walk{values: values, all: all, document: document{data: data}}
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
	return w.document
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
	document
	parser unstable.Parser
	values map[string]any
	all    *Error
	skip   bool   // below a table that was reported as a whole
	list   string // below one table of this list: rulesTable or socketsTable
}

// rulesTable and socketsTable are the names of the tables that there may be any number of.
const (
	rulesTable   = "policy.rules"
	socketsTable = "sockets"
)

// listed returns the tables of a list that were read so far; nil if there is no list of that name.
func (w *walk) listed(name string) *[]listedTable {
	switch name {
	case rulesTable:
		return &w.rules
	case socketsTable:
		return &w.sockets
	default:
		return nil
	}
}

// table starts [path]. One that Airlock does not know is reported once, without its keys.
func (w *walk) table(path []string, node *unstable.Node) {
	name := dotted(path)
	w.list = ""
	if len(w.rules) > 0 && strings.HasPrefix(name, rulesTable+".") {
		w.list = rulesTable
	}
	w.skip = !isTable(name) && w.list == ""
	w.note(name, w.at(node.Key()))
	switch {
	case w.listed(name) != nil:
		w.all.add(w.at(node.Key()), name, "there may be several", "write [["+name+"]]")
	case w.skip:
		message, remedy := unknownTable(name)
		w.all.add(w.at(node.Key()), name, message, remedy)
	}
}

func (w *walk) arrayTable(path []string, node *unstable.Node) {
	name := dotted(path)
	w.list = ""
	w.skip = w.listed(name) == nil
	w.note(name, w.at(node.Key()))
	switch {
	case !w.skip:
		w.list = name
		tables := w.listed(name)
		*tables = append(*tables, listedTable{at: w.at(node.Key())})
	case isTable(name):
		w.all.add(w.at(node.Key()), name, "is a single table", "write ["+name+"]")
	default:
		message, remedy := unknownTable(name)
		w.all.add(w.at(node.Key()), name, message, remedy)
	}
}

// note remembers that there is a policy, and where its id tokens are described.
func (w *walk) note(name string, at position) {
	w.hasPolicy = w.hasPolicy || name == "policy" || strings.HasPrefix(name, "policy.")
	inToken := name == "policy.id_token" || strings.HasPrefix(name, "policy.id_token.")
	if inToken && w.idTokenAt == (position{}) {
		w.idTokenAt = at
	}
}

func (w *walk) keyValue(table []string, node *unstable.Node) {
	path, keyAt := w.path(table, node.Key())
	name := dotted(path)
	value := node.Value()
	w.note(name, keyAt)
	limits := w.list == rulesTable && name == rulesTable+".limits"
	if value.Kind == unstable.InlineTable && (isTable(name) || limits) {
		for it := value.Children(); it.Next(); {
			w.keyValue(path, it.Node())
		}
		return
	}
	switch {
	case isTable(name) || limits:
		w.all.add(keyAt, name, "is a table", "write ["+name+"] on a line of its own and its keys below")
		return
	case w.listed(name) != nil:
		w.all.add(keyAt, name, "its "+lastPart(name)+" are tables", "write each below a line [["+name+"]] of its own")
		return
	}
	e := entry{key: name, value: w.lookup(path), keyAt: keyAt, at: keyAt}
	if value.Raw.Length > 0 {
		e.at = w.position(value)
		e.rawOffset, e.rawLength = int(value.Raw.Offset), int(value.Raw.Length)
	}
	for it := value.Children(); value.Kind == unstable.Array && it.Next(); {
		at := e.at
		if it.Node().Raw.Length > 0 {
			at = w.position(it.Node())
		}
		e.items = append(e.items, at)
	}
	if w.list == "" {
		w.entries = append(w.entries, e)
		return
	}
	e.key = strings.TrimPrefix(e.key, w.list+".")
	tables := *w.listed(w.list)
	last := &tables[len(tables)-1]
	last.entries = append(last.entries, e)
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
		if list, ok := value.([]any); ok && w.list != "" {
			if read := len(*w.listed(w.list)); read <= len(list) {
				value = list[read-1]
			}
		}
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
