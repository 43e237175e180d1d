package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// page is where the story is printed: parts with a heading, and how long each took.
type page struct {
	w    io.Writer
	took []duration
}

type duration struct {
	part string
	time time.Duration
}

func (p *page) introduce() {
	p.say("%s", `Airlock, demonstrated: a job's way from GitLab Runner to a fresh sandbox and back.

Real:      Airlock's four programs, containers, virtual machines and their network on this host, git, and from the second
           job on GitLab Runner 19.4.0, built from its released sources with the custom executor alone.
Played:    the runner of the first job, which is shown before the real one has been compiled: this process calls
           airlock-driver as version 19.4 does.
Stand-in:  GitLab and the registry are small servers in this process. No GitLab is asked for anything.`)
}

// part prints a heading, runs f and keeps how long it took.
func (p *page) part(title string, f func() error) error {
	fmt.Fprintf(p.w, "\n%s\n%s\n", title, strings.Repeat("=", len(title)))
	start := time.Now()
	err := f()
	p.took = append(p.took, duration{title, time.Since(start)})
	return err
}

// durations prints how long each part took.
func (p *page) durations() {
	fmt.Fprintln(p.w)
	var all time.Duration
	var rows [][]string
	for _, d := range p.took {
		all += d.time
		rows = append(rows, []string{d.part, seconds(d.time)})
	}
	p.table(append(rows, []string{"all", seconds(all)}))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%6.2f s", d.Seconds()) }

func (p *page) say(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }

// quote prints what was printed or written elsewhere, set off from the story.
func (p *page) quote(content string) {
	for line := range strings.Lines(strings.TrimRight(content, "\n") + "\n") {
		fmt.Fprintf(p.w, "    %s\n", strings.TrimRight(line, " \n"))
	}
}

// printed quotes a command's output below its name; nothing if there is none.
func (p *page) printed(name, output string) {
	if output == "" {
		return
	}
	fmt.Fprintf(p.w, "\n  %s\n", name)
	p.quote(output)
}

func (p *page) table(rows [][]string) {
	t := table.NewWriter()
	t.SetStyle(table.StyleDefault)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	for _, row := range rows {
		cells := make(table.Row, len(row))
		for i, cell := range row {
			cells[i] = cell
		}
		t.AppendRow(cells)
	}
	for line := range strings.Lines(t.Render() + "\n") {
		fmt.Fprintf(p.w, " %s\n", strings.TrimRight(line, " \n"))
	}
}

// marks are what the runner puts into a log for GitLab's page: where sections begin and end, and colours.
var marks = regexp.MustCompile(`section_(start|end):[0-9]+:[a-z_]+(\[[^]]*\])?\r|\x1b\[[0-9;]*[A-Za-z]`)

// readable is a job's log as GitLab's page shows it, but without colours.
func readable(log string) string { return marks.ReplaceAllString(log, "") }

// linesWith returns the lines that begin with one of the prefixes.
func linesWith(content string, prefixes ...string) string {
	var found strings.Builder
	for line := range strings.Lines(content) {
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				found.WriteString(line)
			}
		}
	}
	return found.String()
}

// lastLines returns the last n lines.
func lastLines(content string, n int) string {
	lines := strings.SplitAfter(content, "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}
