package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reading is one entry on its way into the configuration. Its methods set the destination when the value is
// right, and else add a problem.
type reading struct {
	entry
	all *Error
}

// form checks one string; it returns what is wrong with it and the remedy, or two empty strings.
type form func(s string) (wrong, remedy string)

// wrong adds a problem of the whole value; %s in message stands for the value.
func (r *reading) wrong(message, remedy string) {
	if strings.Contains(message, "%s") {
		message = fmt.Sprintf(message, show(r.value))
	}
	r.all.add(r.at, r.key, message, remedy)
}

// show returns a value as messages quote it.
func show(value any) string {
	switch v := value.(type) {
	case string:
		return quote(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return fmt.Sprint(v)
	}
}

func (r *reading) text(dst *string, check form) {
	s, ok := r.value.(string)
	if !ok {
		r.wrong("%s is not a string", "put it in quotes")
		return
	}
	if wrong, remedy := check(s); wrong != "" {
		r.wrong(quote(s)+" "+wrong, remedy)
		return
	}
	*dst = s
}

func (r *reading) truth(dst *bool) {
	b, ok := r.value.(bool)
	if !ok {
		r.wrong("%s is neither true nor false", "write true or false, without quotes")
		return
	}
	*dst = b
}

func (r *reading) choice(dst *string, names ...string) {
	if s, ok := r.value.(string); ok && slices.Contains(names, s) {
		*dst = s
		return
	}
	r.wrong("%s is not a choice", "use "+alternatives(names))
}

func alternatives(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// list sets dst when every item is right; each wrong item is a problem of its own, at its own place.
func (r *reading) list(dst *[]string, check form) {
	items, ok := r.value.([]any)
	if !ok {
		r.wrong("%s is not a list", `write a list of strings, as in `+lastPart(r.key)+` = ["...", "..."]`)
		return
	}
	list := make([]string, 0, len(items))
	for i, item := range items {
		s, isText := item.(string)
		wrong, remedy := "is not a string", "put it in quotes"
		if isText {
			wrong, remedy = check(s)
		}
		if wrong != "" {
			r.all.add(r.items[i], r.key, show(item)+" "+wrong, remedy)
			continue
		}
		list = append(list, s)
	}
	if len(list) == len(items) {
		*dst = slices.Clip(list)
	}
}

// oneOrMore takes a list that is not empty, or a single string for a list of one.
func (r *reading) oneOrMore(dst *[]string, check form) {
	if s, ok := r.value.(string); ok {
		var one string
		if r.text(&one, check); one == s {
			*dst = []string{s}
		}
		return
	}
	if items, ok := r.value.([]any); ok && len(items) == 0 {
		r.wrong("the list is empty", "name at least one, or remove the key")
		return
	}
	r.list(dst, check)
}

func (r *reading) integer(dst *int64, least, most int64) {
	if n, ok := r.value.(int64); ok && n >= least && n <= most {
		*dst = n
		return
	}
	r.wrong("%s is out of range", fmt.Sprintf("write a whole number from %d to %d, without quotes", least, most))
}

// automatic stands for the word "auto" in keys whose default depends on something else.
const automatic = -1

// autoOr takes "auto", or what read takes.
func (r *reading) autoOr(dst *int64, read func(dst *int64)) {
	if r.value == "auto" {
		*dst = automatic
		return
	}
	read(dst)
}

// number returns a number that is written as such or as a string.
func (r *reading) number() (float64, bool) {
	switch v := r.value.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v)
	case string:
		f, err := strconv.ParseFloat(v, 64)
		return f, err == nil && !math.IsNaN(f)
	default:
		return 0, false
	}
}

var sizePattern = regexp.MustCompile(`^([0-9]{1,15}(?:\.[0-9]{1,6})?)([bkmgt]?)b?$`)

// size takes the memory strings of GitLab Runner: a number with b, k, m, g or t; powers of 1024.
func (r *reading) size(dst *int64, least, most int64) {
	s, _ := r.value.(string)
	match := sizePattern.FindStringSubmatch(strings.ToLower(s))
	if match == nil {
		r.wrong("%s is not a size", `write a string with a number and b, k, m, g or t, as in "2g"`)
		return
	}
	number, _ := strconv.ParseFloat(match[1], 64) // the pattern admits numbers only
	unit := map[string]float64{"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[match[2]]
	bytes := number * unit
	if bytes < float64(least) || bytes > float64(most) {
		r.wrong("%s is out of range", fmt.Sprintf("write a size from %s to %s", sizeString(least), sizeString(most)))
		return
	}
	*dst = int64(bytes)
}

// sizeString writes a size in the largest unit that leaves it whole.
func sizeString(bytes int64) string {
	for _, unit := range []struct {
		letter string
		bytes  int64
	}{{"t", 1 << 40}, {"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10}} {
		if bytes >= unit.bytes && bytes%unit.bytes == 0 {
			return strconv.FormatInt(bytes/unit.bytes, 10) + unit.letter
		}
	}
	return strconv.FormatInt(bytes, 10)
}

// duration takes "1m30s" or whole seconds.
func (r *reading) duration(dst *time.Duration, least, most time.Duration) {
	var d time.Duration
	switch v := r.value.(type) {
	case string:
		parsed, err := time.ParseDuration(v)
		if err != nil {
			r.wrong("%s is not a duration", `write a number with a unit, as in "90s" or "1m30s", or whole seconds without quotes`)
			return
		}
		d = parsed
	case int64:
		d = time.Duration(min(max(v, -1), int64(most/time.Second)+1)) * time.Second
	default:
		r.wrong("%s is not a duration", `write a string, as in "90s", or whole seconds`)
		return
	}
	if d < least || d > most {
		r.wrong("%s is out of range", fmt.Sprintf("write a duration from %s to %s", least, most))
		return
	}
	*dst = d
}
