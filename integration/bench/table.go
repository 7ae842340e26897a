package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A group is one table: rows that have the same columns.
type group struct {
	name    string // in keys, and for -rows
	title   string
	intro   string   // what both sides do, and what the numbers are
	columns []string // in this order; those that nothing was measured for are left out
	base    string   // the column whose ratio is 1, "" for none
}

// markdown writes the whole report.
func (d *document) markdown(groups []group) string {
	var w strings.Builder
	m := d.Machine
	fmt.Fprintf(&w, "# What it costs\n\n%s, %s, %d cores, files on %s, %s. Load averages before: %s, after: %s. The run took %s. Written by `make bench`; the package documentation says how.\n\n",
		m.Kernel, m.CPU, m.Cores, m.Disk, m.Date, m.Before, m.After, m.Took)
	w.WriteString(d.noise())
	d.targetTable(&w)
	for _, g := range groups {
		d.groupTable(&w, g)
	}
	if len(d.Missing) > 0 {
		w.WriteString("\n## Not measured\n\n")
		for _, s := range d.Missing {
			fmt.Fprintf(&w, "- %s\n", s)
		}
	}
	return w.String()
}

// noise says how much the measurement itself varied.
func (d *document) noise() string {
	var off, spread []float64
	for _, r := range d.Results {
		switch {
		case r.View == kernelAgain && r.Ratio > 0:
			off = append(off, max(r.Ratio, 1/r.Ratio))
		case r.View == kernel && r.Runs > 1:
			spread = append(spread, r.Noise)
		}
	}
	if len(off) == 0 {
		return ""
	}
	slices.Sort(off)
	slices.Sort(spread)
	s := fmt.Sprintf("Noise: overlayfs measured twice differs from itself by a factor of %.2f in the median row and %.2f in the worst",
		quantile(off, 0.5), off[len(off)-1])
	if len(spread) > 0 {
		s += fmt.Sprintf("; its rounds spread by ±%.0f%% in the median row (half the distance of the quartiles)", 100*quantile(spread, 0.5))
	}
	return s + ".\n\n"
}

func (d *document) groupTable(w *strings.Builder, g group) {
	var columns []string
	for _, c := range g.columns {
		if slices.ContainsFunc(d.Results, func(r result) bool { return r.Group == g.name && r.View == c }) {
			columns = append(columns, c)
		}
	}
	if len(columns) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n", g.title, g.intro)
	line(w, append([]string{"", "state"}, columns...)...)
	line(w, slices.Repeat([]string{"---"}, len(columns)+2)...)
	seen := map[[2]string]bool{}
	for _, r := range d.Results {
		if r.Group != g.name || seen[[2]string{r.Row, r.State}] {
			continue
		}
		seen[[2]string{r.Row, r.State}] = true
		cells := []string{r.Row, r.State}
		for _, c := range columns {
			if v, ok := d.find(key{g.name, r.Row, r.State, c}); ok {
				cells = append(cells, v.cell())
			} else {
				cells = append(cells, "–")
			}
		}
		line(w, cells...)
	}
}

func line(w *strings.Builder, cells ...string) {
	w.WriteByte('|')
	for _, c := range cells {
		fmt.Fprintf(w, " %s |", strings.ReplaceAll(c, "|", `\|`))
	}
	w.WriteByte('\n')
}

// cell is what a table says of a result: the median, the ratio, smallest and largest.
func (r result) cell() string {
	s := amount(r.Median, r.Unit)
	if r.Ratio > 0 {
		s += " ×" + ratio(r.Ratio)
	}
	if r.Rate > 0 {
		s += fmt.Sprintf(", %.0f MB/s", r.Rate/1e6)
	}
	if r.Runs > 1 {
		s += fmt.Sprintf(" (%s–%s)", amount(r.Min, r.Unit), amount(r.Max, r.Unit))
	}
	return s
}

// amount is a number without its unit: milliseconds, or megabytes of 2^20 bytes.
func amount(v float64, unit string) string {
	if unit == bytes {
		return fmt.Sprintf("%.1f", v/(1<<20))
	}
	if v < 0.0995 {
		return fmt.Sprintf("%.1f", v*1000)
	}
	return fmt.Sprintf("%.0f", v*1000)
}

// ratio has as many digits as say something.
func ratio(v float64) string {
	if v >= 9.95 || math.IsInf(v, 0) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
