package gitlab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxNesting is how deep a job response may nest. GitLab's deepest values (run: steps with their inputs) stay
// below 20.
const maxNesting = 64

// normalise returns a JSON document that means the same to every reader: encoding/json matches keys without
// regard to case and lets the last of several win, so "ID" or a second "git_info" could replace what GitLab
// attested. Here a key that occurs twice in one object is an error, and keys that are not written in lower
// case, as all keys that Airlock reads are, are left out with what they hold.
//
// encoding/json checks the document first, all of it at once: asked for token after token, it takes a
// millisecond for an ordinary job, which is as long as the rest of a driver's call.
func normalise(data []byte) ([]byte, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not UTF-8")
	}
	if nestsDeeper(data, maxNesting) {
		return nil, fmt.Errorf("it nests deeper than %d levels", maxNesting)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	var document json.RawMessage
	if err := dec.Decode(&document); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows it at byte %d", dec.InputOffset())
	}
	c := copier{in: document, out: make([]byte, 0, len(document))}
	err := c.value()
	return c.out, err
}

// nestsDeeper reports whether a document, be it valid or not, opens more than limit brackets within each other.
func nestsDeeper(data []byte, limit int) bool {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// copier copies a valid document: what a value is shows in its first byte, and its end is easily found.
type copier struct {
	in  []byte // what is left to copy
	out []byte
}

// value copies one value.
func (c *copier) value() error {
	switch c.peek() {
	case '{':
		return c.object()
	case '[':
		return c.array()
	case '"':
		c.out = append(c.out, c.text()...)
	default:
		end := bytes.IndexAny(c.in, ",]} \t\r\n")
		if end < 0 {
			end = len(c.in)
		}
		c.out, c.in = append(c.out, c.in[:end]...), c.in[end:]
	}
	return nil
}

func (c *copier) object() error {
	c.pass()
	seen := map[string]bool{}
	first := true
	for c.peek() != '}' {
		if c.peek() == ',' {
			c.skip()
			c.peek()
		}
		quoted := c.text()
		key, err := unquote(quoted)
		if err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("a key occurs twice in one object, the second time %d bytes before its end", len(quoted)+len(c.in))
		}
		seen[key] = true
		c.peek()
		c.skip() // the colon
		before := len(c.out)
		if !first {
			c.out = append(c.out, ',')
		}
		c.out = append(append(c.out, quoted...), ':')
		if err := c.value(); err != nil {
			return err
		}
		if isLowerCase(key) {
			first = false
		} else {
			c.out = c.out[:before]
		}
	}
	c.pass()
	return nil
}

func (c *copier) array() error {
	for c.pass(); c.peek() != ']'; {
		if c.peek() == ',' {
			c.pass()
		}
		if err := c.value(); err != nil {
			return err
		}
	}
	c.pass()
	return nil
}

// peek passes over blanks and returns the byte behind them.
func (c *copier) peek() byte {
	c.in = bytes.TrimLeft(c.in, " \t\r\n")
	return c.in[0]
}

// pass copies one byte, skip leaves it out.
func (c *copier) pass() { c.out = append(c.out, c.in[0]); c.skip() }
func (c *copier) skip() { c.in = c.in[1:] }

// text takes the string at the beginning, with its quotes.
func (c *copier) text() []byte {
	end := 1
	for c.in[end] != '"' {
		if c.in[end] == '\\' {
			end++
		}
		end++
	}
	taken := c.in[:end+1]
	c.in = c.in[end+1:]
	return taken
}

// unquote returns what a string says.
func unquote(quoted []byte) (string, error) {
	if !bytes.ContainsRune(quoted, '\\') {
		return string(quoted[1 : len(quoted)-1]), nil
	}
	var text string
	err := json.Unmarshal(quoted, &text)
	return text, err
}

// isLowerCase reports whether a key is made of the characters that GitLab's keys are made of. It refuses the
// letters beyond ASCII too that fold to them, such as U+017F to s.
func isLowerCase(key string) bool {
	for i := range len(key) {
		c := key[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
