package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// report is all that one run found.
type report struct {
	machine  machine
	rounds   int
	sections []*section
}

// print writes the report as one table with a part for each section.
func (r *report) print(w io.Writer) error {
	m := r.machine
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.SetColumnConfigs([]table.ColumnConfig{
		{Number: 2, Align: text.AlignRight, AlignHeader: text.AlignRight},
		{Number: 3, Align: text.AlignRight, AlignHeader: text.AlignRight},
		{Number: 4, Align: text.AlignRight, AlignHeader: text.AlignRight},
		{Number: 5, Align: text.AlignRight, AlignHeader: text.AlignRight},
	})
	t.AppendHeader(table.Row{"", "median", "min", "p90", "ratio", "compared with", "target", ""})
	for _, s := range r.sections {
		t.AppendRow(table.Row{""})
		t.AppendRow(table.Row{strings.ToUpper(s.title)})
		for _, row := range s.series {
			t.AppendRow(tableRow(row))
		}
		for _, row := range s.sizes {
			t.AppendRow(sizeRow(row))
		}
	}
	if _, err := fmt.Fprintf(w, "%d cores (%s), %.1f GiB, Linux %s, crun %s, %s; load %s before, %s after; %d rounds, in turn\n\n%s\n",
		m.Cores, m.CPU, float64(m.Memory)/(1<<30), m.Kernel, m.Crun, m.Go, m.LoadBefore, m.LoadAfter, r.rounds, trimmed(t.Render())); err != nil {
		return err
	}
	for _, s := range r.sections {
		for _, note := range s.notes {
			if _, err := fmt.Fprintf(w, "\n%s: %s\n", s.title, note); err != nil {
				return err
			}
		}
	}
	return nil
}

func tableRow(s *series) table.Row {
	row := table.Row{"  " + s.name, milliseconds(s.median()), milliseconds(s.quantile(0)), milliseconds(s.quantile(0.9))}
	if s.against == nil {
		return row
	}
	row = append(row, fmt.Sprintf("%.2f", s.ratio()), s.against.name)
	if s.target == 0 {
		return row
	}
	return append(row, fmt.Sprintf("at most %g", s.target), verdict(s.met()))
}

func sizeRow(s size) table.Row {
	row := table.Row{"  " + s.name, fmt.Sprintf("%.1f MiB", float64(s.bytes)/(1<<20))}
	if s.target == 0 {
		return row
	}
	return append(row, "", "", "", "", fmt.Sprintf("at most %d MiB", s.target>>20), verdict(s.met()))
}

func verdict(met bool) string {
	if met {
		return "ok"
	}
	return "MISSED"
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// trimmed is the table without the blanks at the ends of its lines.
func trimmed(table string) string {
	lines := strings.Split(table, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

// The report as JSON. Times are in milliseconds; ratio compares medians.
type (
	reportJSON struct {
		Machine  machine       `json:"machine"`
		Rounds   int           `json:"rounds"`
		Sections []sectionJSON `json:"sections"`
	}
	sectionJSON struct {
		Title string     `json:"title"`
		Notes []string   `json:"notes,omitempty"`
		Rows  []rowJSON  `json:"rows"`
		Sizes []sizeJSON `json:"sizes,omitempty"`
	}
	sizeJSON struct {
		Name   string `json:"name"`
		Bytes  int64  `json:"bytes"`
		Target int64  `json:"target,omitempty"`
		Met    *bool  `json:"met,omitempty"`
	}
	rowJSON struct {
		Name     string    `json:"name"`
		Median   float64   `json:"median_ms"`
		Min      float64   `json:"min_ms"`
		P90      float64   `json:"p90_ms"`
		Against  string    `json:"against,omitempty"`
		Ratio    float64   `json:"ratio,omitempty"`
		Target   float64   `json:"target,omitempty"`
		Met      *bool     `json:"met,omitempty"`
		ValuesMS []float64 `json:"values_ms"`
	}
)

func (r *report) printJSON(w io.Writer) error {
	out := reportJSON{Machine: r.machine, Rounds: r.rounds}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for _, s := range r.sections {
		part := sectionJSON{Title: s.title, Notes: s.notes, Rows: []rowJSON{}}
		for _, series := range s.series {
			row := rowJSON{
				Name: series.name, Median: ms(series.median()), Min: ms(series.quantile(0)), P90: ms(series.quantile(0.9)),
				Ratio: series.ratio(), Target: series.target,
			}
			if series.against != nil {
				row.Against = series.against.name
			}
			if series.target != 0 {
				met := series.met()
				row.Met = &met
			}
			for _, value := range series.values {
				row.ValuesMS = append(row.ValuesMS, ms(value))
			}
			part.Rows = append(part.Rows, row)
		}
		for _, s := range s.sizes {
			row := sizeJSON{Name: s.name, Bytes: s.bytes, Target: s.target}
			if s.target != 0 {
				met := s.met()
				row.Met = &met
			}
			part.Sizes = append(part.Sizes, row)
		}
		out.Sections = append(out.Sections, part)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}
