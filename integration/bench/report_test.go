package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"imagefs/integration/harness"
)

// stats of one series. Of the noise it tells the smallest and the largest value.
type stats struct {
	Workload string  `json:"workload"`
	State    string  `json:"state"`
	View     string  `json:"view"`
	Runs     int     `json:"runs"`
	Median   float64 `json:"median_s"`
	Min      float64 `json:"min_s"`
	Max      float64 `json:"max_s"`
	Ratio    float64 `json:"ratio"` // of the medians, to what the table names as 1
}

func (b *bench) stats(workload, state, view, base string) (s stats, ok bool) {
	times := slices.Sorted(slices.Values(b.times[key{workload, state, view}]))
	if len(times) == 0 {
		return s, false
	}
	median := func(t []time.Duration) time.Duration { return (t[(len(t)-1)/2] + t[len(t)/2]) / 2 }
	s = stats{workload, state, view, len(times), median(times).Seconds(), times[0].Seconds(), times[len(times)-1].Seconds(), 0}
	if ref := slices.Sorted(slices.Values(b.times[key{workload, state, base}])); len(ref) > 0 {
		s.Ratio = s.Median / median(ref).Seconds()
	}
	return s, true
}

// report prints the tables, and with -full writes them down.
func (b *bench) report() {
	var all []stats
	var md strings.Builder
	fmt.Fprintf(&md, "# What it costs\n\n%s, %d cores, %s; load average before it began: %s. Written by `make bench`.\n\n",
		kernelVersion(), runtime.NumCPU(), time.Now().UTC().Format("2006-01-02"), b.load)
	md.WriteString("Medians in milliseconds, with the ratio to the kernel's overlayfs on the same layer directories (below 1 is faster) and, in brackets, the smallest and largest value. ")
	md.WriteString("The views are measured by turns. *cold*: all caches of the machine dropped, mounted anew. *fresh*: mounted anew, the layers' files in the page cache. *warm*: right after the same command.\n\n")
	names := []string{kernel, ours, readOnly, fuseOvl}
	table(&md, append([]string{"workload", "state"}, names...), func(row func(...string)) {
		work := []string{"mount to first ls"}
		for _, w := range workloads {
			work = append(work, w.name)
		}
		for _, w := range work {
			for _, state := range []string{cold, fresh, warm} {
				cells, any := []string{w, state}, false
				for _, v := range names {
					s, ok := b.stats(w, state, v, kernel)
					if !ok {
						cells = append(cells, "–")
						continue
					}
					all, any = append(all, s), true
					cells = append(cells, s.cell())
				}
				if any {
					row(cells...)
				}
			}
		}
	})
	var memory []string
	for _, v := range names[1:] {
		if m, ok := b.memory[v]; ok {
			memory = append(memory, fmt.Sprintf("%s %d MB", v, m>>20))
		}
	}
	fmt.Fprintf(&md, "\nThe most memory that the servers of a view had resident: %s.\n\n", strings.Join(memory, ", "))
	md.WriteString("Loading an archive of two tags that is in the page cache. `imagefs load` is durable when it returns, as `tar x, synced` is; ratios are to `tar x` of the same layers.\n\n")
	table(&md, []string{"", "ms, ratio"}, func(row func(...string)) {
		for _, v := range []string{ours, dockerLoad, tarX, tarSync} {
			if s, ok := b.stats(loading, warm, v, tarX); ok {
				all = append(all, s)
				row(v, s.cell())
			} else {
				row(v, "–")
			}
		}
	})
	for _, m := range b.missing {
		fmt.Fprintf(&md, "\nNot measured: %s.\n", m)
	}
	fmt.Println(md.String())
	if !*full {
		return
	}
	dir := filepath.Join(harness.Repo(), "integration/bench")
	js, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		b.t.Fatal(err)
	}
	for name, content := range map[string][]byte{"RESULTS.md": []byte(md.String()), "results.json": append(js, '\n')} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			b.t.Error(err)
		}
	}
}

func (s stats) cell() string {
	ms := func(v float64) string {
		if v < 0.0995 {
			return fmt.Sprintf("%.1f", v*1000)
		}
		return fmt.Sprintf("%.0f", v*1000)
	}
	return fmt.Sprintf("%s ×%.2f (%s–%s)", ms(s.Median), s.Ratio, ms(s.Min), ms(s.Max))
}

// table writes a table in Markdown.
func table(w *strings.Builder, head []string, rows func(row func(...string))) {
	line := func(cells ...string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(head...)
	line(slices.Repeat([]string{"---"}, len(head))...)
	rows(line)
}

// loadAverage tells how busy the machine is with other things.
func loadAverage() string {
	v, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(v), " ")
	return one
}

func kernelVersion() string {
	v, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(v))
}
