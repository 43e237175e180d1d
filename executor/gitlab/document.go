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
func normalise(data []byte) ([]byte, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not UTF-8")
	}
	r := reader{dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	if err := r.value(maxNesting); err != nil {
		return nil, err
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows it at byte %d", r.dec.InputOffset())
	}
	return r.out.Bytes(), nil
}

// reader copies a document token by token.
type reader struct {
	dec *json.Decoder
	out bytes.Buffer
}

// value copies one value that nests at most depth levels.
func (r *reader) value(depth int) error {
	token, err := r.dec.Token()
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	switch {
	case !nested:
		return r.scalar(token)
	case depth == 0:
		return fmt.Errorf("it nests deeper than %d levels", maxNesting)
	case delim == '{':
		return r.object(depth)
	default:
		return r.array(depth)
	}
}

func (r *reader) scalar(token json.Token) error {
	text, err := json.Marshal(token)
	r.out.Write(text)
	return err
}

func (r *reader) object(depth int) error {
	r.out.WriteByte('{')
	seen := map[string]bool{}
	first := true
	for r.dec.More() {
		token, err := r.dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string) // the decoder lets nothing else pass for a key
		if seen[key] {
			return fmt.Errorf("a key occurs twice in one object, the second time before byte %d", r.dec.InputOffset())
		}
		seen[key] = true
		before := r.out.Len()
		if !first {
			r.out.WriteByte(',')
		}
		r.out.WriteString(`"` + key + `":`) // a key that would need quoting is not kept
		if err := r.value(depth - 1); err != nil {
			return err
		}
		if isLowerCase(key) {
			first = false
		} else {
			r.out.Truncate(before)
		}
	}
	r.out.WriteByte('}')
	_, err := r.dec.Token() // the closing brace
	return err
}

func (r *reader) array(depth int) error {
	r.out.WriteByte('[')
	for first := true; r.dec.More(); first = false {
		if !first {
			r.out.WriteByte(',')
		}
		if err := r.value(depth - 1); err != nil {
			return err
		}
	}
	r.out.WriteByte(']')
	_, err := r.dec.Token() // the closing bracket
	return err
}

// isLowerCase tells whether a key is made of the characters that GitLab's keys are made of. It refuses the
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
