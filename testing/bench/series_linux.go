package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// warmUps are the rounds before the measured ones: they fill the kernel's caches and the executor's.
const warmUps = 3

// series is what one thing took, a value a round. It is judged against another series of the same rounds.
type series struct {
	name   string
	values []time.Duration
	// against is what it is compared with, nil for the thing that others are compared with.
	against *series
	// target is how many times the median of against is acceptable; 0 is no target.
	target float64
}

func (s *series) add(d time.Duration) { s.values = append(s.values, d) }

// quantile is the value below which the share q of the values lie, 0 when there are none.
func (s *series) quantile(q float64) time.Duration {
	if len(s.values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (s *series) median() time.Duration { return s.quantile(0.5) }

// ratio compares the medians; 0 when there is nothing to compare with.
func (s *series) ratio() float64 {
	if s.against == nil || s.against.median() == 0 {
		return 0
	}
	return float64(s.median()) / float64(s.against.median())
}

func (s *series) met() bool { return s.ratio() <= s.target }

// section is one part of the report: series that were measured in turn.
type section struct {
	title string
	// notes say what the reader has to know to believe the figures, a sentence each.
	notes  []string
	series []*series
	sizes  []size
}

// size is how much memory one thing takes, in bytes; a target of 0 is none.
type size struct {
	name          string
	bytes, target int64
}

func (s size) met() bool { return s.bytes <= s.target }

func (s *section) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// row adds a series to the section.
func (s *section) row(name string, against *series, target float64) *series {
	added := &series{name: name, against: against, target: target}
	s.series = append(s.series, added)
	return added
}

// turn does one thing once and adds what it took to its series.
type turn func(ctx context.Context) error

// rounds takes all turns one after the other, again and again, so that what disturbs the machine disturbs all
// of them alike. The series of the sections keep what the rounds after the first few took.
func rounds(ctx context.Context, n int, turns []turn, sections ...*section) error {
	for round := range warmUps + n {
		if round == warmUps {
			for _, s := range sections {
				for _, row := range s.series {
					row.values = nil
				}
			}
		}
		for _, take := range turns {
			err := take(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
