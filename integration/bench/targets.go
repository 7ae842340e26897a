package bench

import (
	"fmt"
	"slices"
	"strings"
)

// A target is a limit on one number of the tables.
type target struct {
	group, row, state string

	against string   // the column that the value is a ratio to, "" for the value itself
	limit   float64  // a ratio, seconds, bytes, or, with rate, bytes a second
	rate    bool     // the value is a rate, and the limit its least
	below   bool     // equal to the limit is not enough
	views   []string // whose number it is; none: every view of ours
}

// The targets of reading, to overlayfs and to the best other FUSE file system.
func toBoth(row, state string, toKernel, toPeer float64) []target {
	return []target{
		{group: "read", row: row, state: state, against: kernel, limit: toKernel},
		{group: "read", row: row, state: state, against: fuseOvl, limit: toPeer, below: toPeer == 1},
	}
}

// targets are what this project set itself.
var targets = slices.Concat(
	toBoth(rowFirst, fresh, 3, 1),
	[]target{{group: "foreign", row: rowForeign, state: "ls", limit: 0.060}},
	toBoth(rowFind, warm, 0.8, 0.3),
	toBoth(rowFind, fresh, 2, 0.4),
	toBoth(rowFind, cold, 0.7, 0.3),
	toBoth(rowTar, warm, 1, 0.3),
	toBoth(rowTar, fresh, 4, 0.4),
	toBoth(rowSmall, warm, 1, 0.1),
	toBoth(rowBig, warm, 1.5, 1),
	toBoth(rowBig, cold, 1.5, 1),
	toBoth(rowRandom, warm, 1.2, 1),
	toBoth(rowDiff, fresh, 0.3, 0.1),
	toBoth(rowDiff, warm, 0.3, 0.1),
	[]target{
		{group: "memory", row: rowMemory, state: "resident", limit: 20 << 20},
		{group: "many", row: rowMany, state: "mount", limit: 0.100},
		{group: "many", row: rowMany, state: "first ls of a tag", limit: 0.020},
		{group: "load", row: rowLoad, against: tarX, limit: 1.3},
		{group: "load", row: rowLoad, against: dockerLoad, limit: 0.4},
		{group: "load", row: rowLoad, against: podmanLoad, limit: 0.4},
		{group: "load memory", row: rowLoad, limit: 64 << 20},
		{group: "load memory", row: rowLoadBig, limit: 64 << 20},
		{group: "load memory", row: rowLoadMany, limit: 64 << 20},
		{group: "save", row: rowLayerTar, state: warm, limit: 1e9, rate: true},
		{group: "save", row: rowLayerTar, state: warm, against: dockerSave, limit: 0.2},
		{group: "save", row: rowImageTar, state: warm, limit: 1e9, rate: true},
		{group: "save", row: rowImageTar, state: warm, against: dockerSave, limit: 0.2},
		{group: "rmi", row: rowRmi, against: rmR, limit: 1.2},
	},
	ringTargets(rowFind, 0.9), ringTargets(rowLs, 0.8), ringTargets(rowTar, 2.5), ringTargets(rowGrep, 3), ringTargets(rowSmall, 4),
	[]target{
		{group: "in place", row: rowPlain, state: "first ls", limit: 0.100},
		{group: "in place", row: rowGzip, state: "first ls", against: plainGzip, limit: 1.2},
		{group: "in place", row: rowGzip, state: "first ls, seen before", limit: 0.100},
		{group: "in place", row: rowPlain, state: "first ls", against: loadFirst, limit: 1, below: true},
		{group: "in place", row: rowPlain, state: "full read", against: loadFirst, limit: 1, below: true},
		{group: "in place", row: rowPlain, state: "first ls", against: ratarmount, limit: 1, below: true},
		{group: "in place", row: rowPlain, state: "full read", against: ratarmount, limit: 1, below: true},
		{group: "in place", row: rowPlain, state: "first ls", against: fuseArchive, limit: 1, below: true},
		{group: "in place", row: rowPlain, state: "full read", against: fuseArchive, limit: 1, below: true},
	},
)

func ringTargets(row string, limit float64) []target {
	return []target{{group: "read", row: row, state: fresh, against: kernel, limit: limit, views: []string{ring, ringReadOnly}}}
}

// notMeasured is the judgement on what was not measured.
const notMeasured = "not measured"

// A verdict is a target with what was measured.
type verdict struct {
	Target string   `json:"target"`
	Limit  string   `json:"limit"`
	Values []string `json:"values"` // a view and its number each
	Met    string   `json:"met"`    // met, met by … only, not met, or notMeasured
}

// judge compares the results with the targets. A target is met when the median
// is within the limit, whatever the noise says.
func (d *document) judge() []verdict {
	var out []verdict
	for _, t := range targets {
		v := verdict{Target: t.text(), Limit: t.limitText()}
		var met, not []string
		for _, r := range d.Results {
			if r.Group != t.group || r.Row != t.row || r.State != t.state || !t.concerns(r.View) {
				continue
			}
			value, ok := d.value(t, r)
			if !ok {
				continue
			}
			v.Values = append(v.Values, r.View+" "+t.number(value, r.Unit))
			if t.holds(value) {
				met = append(met, r.View)
			} else {
				not = append(not, r.View)
			}
		}
		switch {
		case len(met)+len(not) == 0:
			v.Met = notMeasured
		case len(not) == 0 || slices.Contains(met, ours):
			v.Met = "met"
		case len(met) == 0:
			v.Met = "not met"
		default:
			v.Met = "met by " + strings.Join(met, " and ") + " only"
		}
		// A target that the kernel itself misses in memory is nobody's to meet.
		if r, ok := d.find(key{t.group, t.row, t.state, inMemory}); ok && len(met) == 0 && len(not) > 0 {
			if value, ok := d.value(t, r); ok && !t.holds(value) {
				v.Met += "; nor by " + inMemory + ", " + t.number(value, r.Unit)
			}
		}
		out = append(out, v)
	}
	return out
}

// concerns tells whether a column is one of those that the target is about.
func (t target) concerns(view string) bool {
	if len(t.views) > 0 {
		return slices.Contains(t.views, view)
	}
	return strings.HasPrefix(view, ours) && view != loadFirst
}

// value is the number that a target limits.
func (d *document) value(t target, r result) (float64, bool) {
	switch {
	case t.rate:
		return r.Rate, r.Rate > 0
	case t.against == "":
		return r.Median, true
	}
	b, ok := d.find(key{t.group, t.row, t.state, t.against})
	if !ok || b.Median <= 0 {
		return 0, false
	}
	return r.Median / b.Median, true
}

func (t target) holds(v float64) bool {
	switch {
	case t.rate:
		return v >= t.limit
	case t.below:
		return v < t.limit
	}
	return v <= t.limit
}

func (t target) text() string {
	s := t.row
	if t.state != "" {
		s += ", " + t.state
	}
	if t.group == "load memory" {
		s = "memory of imagefs load: " + s
	}
	if t.against != "" {
		s += ", to " + t.against
	}
	if len(t.views) > 0 {
		s += ", over io_uring"
	}
	return s
}

func (t target) limitText() string {
	switch {
	case t.rate:
		return fmt.Sprintf("≥ %.0f MB/s", t.limit/1e6)
	case t.against != "" && t.below:
		return "< " + ratio(t.limit)
	case t.against != "":
		return "≤ " + ratio(t.limit)
	case t.limit >= 1<<20:
		return fmt.Sprintf("≤ %.0f MB", t.limit/(1<<20))
	}
	return fmt.Sprintf("≤ %.0f ms", t.limit*1000)
}

func (t target) number(v float64, unit string) string {
	switch {
	case t.rate:
		return fmt.Sprintf("%.0f MB/s", v/1e6)
	case t.against != "":
		return ratio(v)
	case unit == bytes:
		return amount(v, unit) + " MB"
	}
	return amount(v, unit) + " ms"
}

func (d *document) targetTable(w *strings.Builder) {
	w.WriteString("## Targets\n\nRatios of medians. “met” means by the mount that `imagefs mount` makes without flags, where that has the row; another view is named.\n\n")
	line(w, "what", "target", "measured", "")
	line(w, "---", "---", "---", "---")
	for _, v := range d.Targets {
		line(w, v.Target, v.Limit, strings.Join(v.Values, "; "), v.Met)
	}
}
