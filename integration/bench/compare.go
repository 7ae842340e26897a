package bench

import (
	"fmt"
	"math"
	"strings"
)

// slack is the factor by which a ratio may always be worse: less than that is
// not worth a look.
const slack = 1.15

// compare returns what became worse since an older run, a sentence each. Times
// are compared as ratios to the base measured with them, so that another
// machine's results can be compared too; those without a base, and memory, as
// they are. How much worse is too much depends on how far the series of both runs
// spread, and on how far the view that was measured twice differs from itself.
func compare(old, now *document) []string {
	var out []string
	for _, n := range now.Results {
		if !strings.HasPrefix(n.View, ours) {
			continue
		}
		o, ok := old.find(n.key())
		if !ok {
			continue
		}
		was, is, what := o.Ratio, n.Ratio, "ratio"
		if n.Unit == bytes || n.Ratio == 0 {
			was, is, what = o.Median, n.Median, n.Unit
			if n.Unit == seconds && (old.Machine.CPU != now.Machine.CPU || old.Machine.Cores != now.Machine.Cores) {
				continue
			}
		}
		if was <= 0 || is <= was*allowance(old, now, o, n) {
			continue
		}
		name := strings.Join(strings.Fields(n.Group+": "+n.Row+" "+n.State), " ")
		if what == "ratio" {
			out = append(out, fmt.Sprintf("%s, %s: ratio %s, was %s", name, n.View, ratio(is), ratio(was)))
		} else {
			unit := map[string]string{seconds: "ms", bytes: "MB"}[n.Unit]
			out = append(out, fmt.Sprintf("%s, %s: %s %s, was %s", name, n.View, amount(is, n.Unit), unit, amount(was, n.Unit)))
		}
	}
	return out
}

// allowance is the factor by which a result may be worse.
func allowance(old, now *document, o, n result) float64 {
	sum := o.Noise*o.Noise + n.Noise*n.Noise
	off := 1.0
	if n.Ratio != 0 {
		for _, d := range []*document{old, now} {
			for _, r := range d.Results {
				// The base is the series whose ratio to itself is 1.
				if r.Group == n.Group && r.Row == n.Row && r.State == n.State && r.View != n.View && r.Ratio == 1 {
					sum += r.Noise * r.Noise
					break
				}
			}
			c := d.calibration(n.Group, n.Row, n.State)
			off *= max(c, 1/c)
		}
	}
	return slack * (1 + 2*math.Sqrt(sum)) * off
}
