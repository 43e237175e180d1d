package config

import "bytes"

// within returns the place in the file of the byte at offset of a string value: behind its quotes, escapes and folded
// lines. Of what is no string, or reads otherwise than expected, it returns the value's own place.
func (d document) within(e entry, offset int) position {
	text, ok := e.value.(string)
	if !ok || e.rawLength == 0 {
		return e.at
	}
	raw := d.data[e.rawOffset : e.rawOffset+e.rawLength]
	places := unquotedPlaces(raw)
	if len(places) != len(text)+1 || offset < 0 || offset >= len(places) {
		return e.at
	}
	before := d.data[:e.rawOffset+places[offset]]
	return position{bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')}
}

// unquotedPlaces returns, for each byte of what a TOML string says and for its end, where that comes from in raw.
func unquotedPlaces(raw []byte) []int {
	begin, end := quotes(raw)
	literal := raw[0] == '\''
	var places []int
	for i := begin; i < end; {
		if raw[i] != '\\' || literal {
			places = append(places, i)
			i++
			continue
		}
		length, says := escape(raw[i:end])
		for range says {
			places = append(places, i)
		}
		i += length
	}
	return append(places, end)
}

// quotes returns where a string's text begins and ends: behind one quote or three, and the line break after three.
func quotes(raw []byte) (begin, end int) {
	three := bytes.Repeat(raw[:1], 3)
	if len(raw) < 6 || !bytes.HasPrefix(raw, three) {
		return 1, len(raw) - 1
	}
	begin = 3
	for _, lineBreak := range []string{"\r\n", "\n"} {
		if bytes.HasPrefix(raw[begin:], []byte(lineBreak)) {
			begin += len(lineBreak)
			break
		}
	}
	return begin, len(raw) - 3
}

// escape returns the length of the escape sequence at the beginning of raw, and of what it says in UTF-8.
func escape(raw []byte) (length, says int) {
	if len(raw) < 2 {
		return len(raw), 0
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[raw[1]]
	switch {
	case digits > 0:
		code := 0
		length = min(2+digits, len(raw))
		for _, c := range raw[2:length] {
			code = code<<4 | hexDigit(c)
		}
		return length, len(string(rune(code)))
	case bytes.IndexByte([]byte(" \t\r\n"), raw[1]) >= 0: // a folded line says nothing
		rest := bytes.TrimLeft(raw[1:], " \t\r\n")
		return len(raw) - len(rest), 0
	default:
		return 2, 1
	}
}

func hexDigit(c byte) int {
	switch {
	case c >= 'a':
		return int(c-'a') + 10
	case c >= 'A':
		return int(c-'A') + 10
	default:
		return int(c - '0')
	}
}
