package bench

import (
	"math"
	"slices"
)

// Units of a series.
const (
	seconds = "s"
	bytes   = "B"
)

// key names a series: one column of one row in one state.
type key struct{ Group, Row, State, View string }

// series is what was measured for a key, in the order of the rounds.
type series struct {
	unit   string
	values []float64
	moved  int64 // bytes that each value moved, 0 if that says nothing
}

// result is a series told in few numbers.
type result struct {
	Group string `json:"group"`
	Row   string `json:"row"`
	State string `json:"state,omitempty"`
	View  string `json:"view"`
	Unit  string `json:"unit"`
	Runs  int    `json:"runs"`

	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Noise  float64 `json:"noise"`           // half the distance of the quartiles, as a part of the median
	Ratio  float64 `json:"ratio,omitempty"` // of the median, to that of the group's base; 0 without one
	Rate   float64 `json:"rate,omitempty"`  // bytes a second, where they were counted
}

func (r result) key() key { return key{r.Group, r.Row, r.State, r.View} }

// measured collects series. The zero value is ready.
type measured struct {
	all   map[key]*series
	order []key // in which the first value of each came
}

func (m *measured) add(k key, unit string, value float64, moved int64) {
	if m.all == nil {
		m.all = map[key]*series{}
	}
	s, ok := m.all[k]
	if !ok {
		s = &series{unit: unit}
		m.all[k] = s
		m.order = append(m.order, k)
	}
	s.values = append(s.values, value)
	s.moved = moved
}

// results sums up; base tells the column that is 1 in a group, "" for none.
func (m *measured) results(base func(group string) string) []result {
	var out []result
	for _, k := range m.order {
		s := m.all[k]
		v := slices.Sorted(slices.Values(s.values))
		r := result{Group: k.Group, Row: k.Row, State: k.State, View: k.View, Unit: s.unit, Runs: len(v),
			Median: quantile(v, 0.5), Min: v[0], Max: v[len(v)-1]}
		if r.Median > 0 {
			r.Noise = (quantile(v, 0.75) - quantile(v, 0.25)) / 2 / r.Median
			if s.moved > 0 {
				r.Rate = float64(s.moved) / r.Median
			}
		}
		if b, ok := m.all[key{k.Group, k.Row, k.State, base(k.Group)}]; ok {
			if ref := quantile(slices.Sorted(slices.Values(b.values)), 0.5); ref > 0 {
				r.Ratio = r.Median / ref
			}
		}
		out = append(out, r)
	}
	return out
}

// quantile returns the value below which the part q of sorted values lies,
// between two of them by proportion. There must be one value at least.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	if low+1 >= len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// document is a whole run, as results.json has it.
type document struct {
	Machine machine   `json:"machine"`
	Results []result  `json:"results"`
	Targets []verdict `json:"targets"`
	Missing []string  `json:"missing,omitempty"` // what was not measured, and why
}

// machine is where and when a run was made.
type machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Disk   string `json:"disk"` // the kind of file system that everything lies on
	Date   string `json:"date"`
	Before string `json:"load_before"` // load averages of 1, 5 and 15 minutes
	After  string `json:"load_after"`
	Took   string `json:"took"`
}

// find returns the result of a key.
func (d *document) find(k key) (result, bool) {
	n := slices.IndexFunc(d.Results, func(r result) bool { return r.key() == k })
	if n < 0 {
		return result{}, false
	}
	return d.Results[n], true
}

// calibration is the ratio of a view to itself in a row; 1 where it was not measured twice.
func (d *document) calibration(group, row, state string) float64 {
	if r, ok := d.find(key{group, row, state, kernelAgain}); ok && r.Ratio > 0 {
		return r.Ratio
	}
	return 1
}
