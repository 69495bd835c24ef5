//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// outcome is what came out of a scenario.
type outcome struct {
	*scenario
	rounds   []map[string]figures // by the name of the entry
	failures map[string]error     // likewise
}

// goal is a limit for a figure of one entry, or for its ratio to that of another.
type goal struct {
	metric     metric
	of         string
	over       string // "" for the figure itself
	difference bool   // rather than the ratio
	limit      float64
	atLeast    bool // rather than at most
}

// value returns what a round says about the goal.
func (g *goal) value(round map[string]figures) (v float64, ok bool) {
	v, ok = round[g.of][g.metric]
	if !ok || g.over == "" {
		return v, ok
	}
	over, ok := round[g.over][g.metric]
	if g.difference {
		return v - over, ok
	}
	return v / over, ok
}

// measured returns what the rounds say, sorted.
func (g *goal) measured(rounds []map[string]figures) (values []float64) {
	for _, round := range rounds {
		if v, ok := g.value(round); ok {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return values
}

// median returns a figure of an entry, or its ratio to that of the base; NaN where no
// round says anything.
func (o *outcome) median(entry string, m metric) float64 {
	g := goal{metric: m, of: entry}
	if name, ok := strings.CutPrefix(string(m), "÷"); ok {
		g.metric, g.over = metric(name), o.base
	}
	return quantile(g.measured(o.rounds), 0.5)
}

// format writes three digits or more.
func format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case v == math.Trunc(v) || math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// print writes the table and the goals, in Markdown.
func (o *outcome) print(w io.Writer) {
	fmt.Fprintf(w, "\n### %s: %s\n\n| |", o.name, o.title)
	for _, m := range o.columns {
		fmt.Fprintf(w, " %s |", strings.Replace(string(m), "÷", "÷ "+o.base+" ", 1))
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("--:|", len(o.columns)))
	for _, e := range o.entries {
		fmt.Fprintf(w, "| %s |", e.name)
		for _, m := range o.columns {
			fmt.Fprintf(w, " %s |", format(o.median(e.name, m)))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	for _, e := range o.entries {
		if err := o.failures[e.name]; err != nil {
			fmt.Fprintf(w, "* %s FAILED: %v\n", e.name, err)
		}
	}
	for _, g := range o.goals {
		fmt.Fprintf(w, "* %s\n", g.verdict(g.measured(o.rounds)))
	}
}

// verdict says what the goal is, what was measured, as median and range, and whether
// that is good.
func (g *goal) verdict(measured []float64) string {
	subject := fmt.Sprintf("%s of %s", g.metric, g.of)
	switch {
	case g.difference:
		subject += " − " + g.over
	case g.over != "":
		subject += " ÷ " + g.over
	}
	median := quantile(measured, 0.5)
	relation, good := "≤", median <= g.limit
	if g.atLeast {
		relation, good = "≥", median >= g.limit
	}
	subject += fmt.Sprintf(" %s %s: ", relation, format(g.limit))
	if len(measured) == 0 {
		return subject + "not measured"
	}
	word := "missed"
	if good {
		word = "ok"
	}
	low, high := quantile(measured, 0), quantile(measured, 1)
	return subject + fmt.Sprintf("%s (%s to %s), %s", format(median), format(low), format(high), word)
}

// printSteady writes how much a figure varies with the number of clients.
func printSteady(w io.Writer, values []float64) {
	g := goal{metric: cpu, of: "poll_sse, dearest ÷ cheapest number of clients", limit: 1.15}
	fmt.Fprintf(w, "\n* %s\n", g.verdict([]float64{slices.Max(values) / slices.Min(values)}))
}
