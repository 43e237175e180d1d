package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// printable returns s with every control character replaced by a space: much of what is printed was written
// by the authors of jobs, and must neither steer the terminal nor break a line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printJSON prints v indented.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// printTable prints rows below a header: boxed for a terminal, else in plain columns.
func printTable(w io.Writer, header []string, rows [][]string) error {
	t := table.NewWriter()
	t.SetStyle(plainStyle())
	if isTerminal(w) {
		t.SetStyle(table.StyleLight)
	}
	t.Style().Format.Header = text.FormatUpper
	t.AppendHeader(tableRow(header))
	for _, row := range rows {
		t.AppendRow(tableRow(row))
	}
	for line := range strings.Lines(t.Render() + "\n") {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func plainStyle() table.Style {
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	return style
}

func tableRow(cells []string) table.Row {
	row := make(table.Row, len(cells))
	for i, cell := range cells {
		row[i] = printable(cell)
	}
	return row
}

// orDash is s, or a dash when there is none.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age is the time since t in its largest unit: "5s", "12m", "3h", "8d".
func age(since time.Duration) string {
	switch {
	case since < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(since.Seconds())))
	case since < time.Hour:
		return fmt.Sprintf("%dm", int(since.Minutes()))
	case since < 48*time.Hour:
		return fmt.Sprintf("%dh", int(since.Hours()))
	default:
		return fmt.Sprintf("%dd", int(since.Hours()/24))
	}
}

// shortDigest is the start of a digest that people compare by eye.
func shortDigest(digest string) string {
	const enough = len("sha256:") + 12
	return digest[:min(len(digest), enough)]
}

// timestamp is a time of the wire as JSON output has it; the zero value is none.
func timestamp(unixNano int64) *time.Time {
	if unixNano == 0 {
		return nil
	}
	t := time.Unix(0, unixNano).UTC()
	return &t
}
