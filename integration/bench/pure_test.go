package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// collect makes a document of series that are given as "group/row/state/view".
func collect(of map[string][]float64) *document {
	var m measured
	for _, name := range sortedKeys(of) {
		f := strings.Split(name, "/")
		unit := seconds
		if strings.Contains(f[0], "memory") {
			unit = bytes
		}
		for _, v := range of[name] {
			m.add(key{f[0], f[1], f[2], f[3]}, unit, v, 0)
		}
	}
	return &document{Results: m.results(baseOf)}
}

func TestResults(t *testing.T) {
	d := collect(map[string][]float64{
		"read/find -printf/warm/overlayfs": {3, 1, 2},
		"read/find -printf/warm/imagefs":   {1, 4, 1.5, 2.5},
	})
	r, ok := d.find(key{"read", rowFind, warm, ours})
	if want := (result{Group: "read", Row: rowFind, State: warm, View: ours, Unit: seconds, Runs: 4, Median: 2, Min: 1, Max: 4,
		Noise: (2.875 - 1.375) / 2 / 2, Ratio: 1}); !ok || r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	if _, ok := d.find(key{"read", rowFind, cold, ours}); ok {
		t.Error("a result that was not measured")
	}
}

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		q    float64
		want float64
	}{{[]float64{7}, 0.5, 7}, {[]float64{7}, 1, 7}, {[]float64{1, 2}, 0.5, 1.5}, {[]float64{1, 2, 3}, 0.5, 2}, {[]float64{1, 2, 3}, 1, 3}, {[]float64{0, 4}, 0.25, 1}} {
		if got := quantile(c.v, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.v, c.q, got, c.want)
		}
	}
}

func TestJudge(t *testing.T) {
	d := collect(map[string][]float64{
		"read/find -printf/warm/overlayfs":                          {1},
		"read/find -printf/warm/imagefs":                            {0.9},
		"read/find -printf/warm/imagefs --read-only":                {0.8},
		"read/find -printf/warm/fuse-overlayfs":                     {4},
		"read/find -printf/fresh/overlayfs":                         {1},
		"read/find -printf/fresh/imagefs":                           {2.1},
		"read/find -printf/fresh/imagefs, io_uring":                 {1.1},
		"memory/find over the image of many files/resident/imagefs": {19 << 20},
		"load memory/a docker-archive//imagefs":                     {64<<20 + 1},
		"many/1,000 images, 10,000 tags/mount/imagefs":              {0.1},
		"read/10,000 small files/warm/overlayfs":                    {2},
		"read/10,000 small files/warm/fuse-overlayfs":               {5},
		"read/10,000 small files/warm/imagefs":                      {2},
		"read/10,000 small files/warm/tmpfs":                        {1},
	})
	judged := map[string]verdict{}
	for _, v := range d.judge() {
		if _, twice := judged[v.Target]; twice {
			// Of a tar there are two targets with the same words: a ratio and a rate.
			if !strings.Contains(v.Limit, "MB/s") && !strings.Contains(judged[v.Target].Limit, "MB/s") {
				t.Errorf("two targets are called %q", v.Target)
			}
		}
		judged[v.Target] = v
	}
	for what, want := range map[string]string{
		"find -printf, warm, to overlayfs":                      "met by imagefs --read-only only",
		"find -printf, warm, to fuse-overlayfs":                 "met",
		"find -printf, fresh, to overlayfs":                     "met by imagefs, io_uring only",
		"find -printf, fresh, to overlayfs, over io_uring":      "not met",
		"find -printf, cold, to overlayfs":                      notMeasured,
		"find over the image of many files, resident":           "met",
		"10,000 small files, warm, to fuse-overlayfs":           "not met; nor by tmpfs, 0.20",
		"10,000 small files, warm, to overlayfs":                "met",
		"memory of imagefs load: a docker-archive":              "not met",
		"1,000 images, 10,000 tags, mount":                      "met",
		"1,000 images, 10,000 tags, first ls of a tag":          notMeasured,
		"docker-archive, first ls, to imagefs load, then mount": notMeasured,
	} {
		if got := judged[what].Met; got != want {
			t.Errorf("%s: %q (%v), want %q", what, got, judged[what].Values, want)
		}
	}
}

// Each target is on a number that some row measures.
func TestTargetsHaveRows(t *testing.T) {
	for _, g := range targets {
		if !slices.ContainsFunc(allRows(), func(r row) bool { return r.group == g.group && r.name == g.row }) {
			t.Errorf("no row %s: %s", g.group, g.row)
		}
		if n := slices.IndexFunc(groups, func(o group) bool { return o.name == g.group }); n < 0 || g.against != "" && !slices.Contains(groups[n].columns, g.against) {
			t.Errorf("%s: no column %q in group %s", g.text(), g.against, g.group)
		}
	}
}

func TestCompare(t *testing.T) {
	made := func(kernelTime, oursTime, jitter, memory float64) *document {
		return collect(map[string][]float64{
			"read/find -printf/warm/overlayfs":             {kernelTime, kernelTime * (1 - jitter), kernelTime * (1 + jitter)},
			"read/find -printf/warm/overlayfs again":       {kernelTime},
			"read/find -printf/warm/imagefs":               {oursTime, oursTime * (1 - jitter), oursTime * (1 + jitter)},
			"load memory/a docker-archive//imagefs":        {memory},
			"many/1,000 images, 10,000 tags/mount/imagefs": {oursTime},
		})
	}
	other := made(1, 3, 0, 1<<20)
	other.Machine.Cores = 64
	for name, c := range map[string]struct {
		old, now *document
		want     []string
	}{
		"the same":                {made(1, 1, 0.1, 1<<20), made(1, 1, 0.1, 1<<20), nil},
		"a slower machine":        {made(1, 1, 0, 1<<20), made(1.1, 1.1, 0, 1<<20), nil},
		"slower":                  {made(1, 1, 0, 1<<20), made(1, 1.5, 0, 1<<20), []string{"many: 1,000 images, 10,000 tags mount, imagefs: 1500 ms, was 1000", "read: find -printf warm, imagefs: ratio 1.50, was 1.00"}},
		"slower within the noise": {made(1, 1, 0.4, 1<<20), made(1, 1.14, 0.4, 1<<20), nil},
		"another machine":         {made(1, 1, 0, 1<<20), other, []string{"read: find -printf warm, imagefs: ratio 3.00, was 1.00"}},
		"more memory":             {made(1, 1, 0, 1<<20), made(1, 1, 0, 2<<20), []string{"load memory: a docker-archive, imagefs: 2.0 MB, was 1.0"}},
		"faster":                  {made(1, 1, 0, 1<<20), made(1, 0.1, 0, 1<<19), nil},
		"nothing before":          {&document{}, made(1, 1, 0, 1<<20), nil},
	} {
		got := compare(c.old, c.now)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What the noise allows grows with it, and a column that differs from itself excuses more.
func TestAllowance(t *testing.T) {
	of := func(jitter, again float64) float64 {
		d := collect(map[string][]float64{
			"read/find -printf/warm/overlayfs":       {1, 1 - jitter, 1 + jitter},
			"read/find -printf/warm/overlayfs again": {again},
			"read/find -printf/warm/imagefs":         {2, 2 * (1 - jitter), 2 * (1 + jitter)},
		})
		r, _ := d.find(key{"read", rowFind, warm, ours})
		return allowance(d, d, r, r)
	}
	quiet, noisy, off := of(0, 1), of(0.2, 1), of(0, 1.5)
	if math.Abs(quiet-slack) > 1e-9 || noisy <= quiet || math.Abs(off-slack*1.5*1.5) > 1e-9 {
		t.Errorf("%v on a quiet machine, %v on a noisy one, %v on one that differs from itself", quiet, noisy, off)
	}
}

func TestMarkdown(t *testing.T) {
	d := collect(map[string][]float64{
		"read/tar | cat/warm/overlayfs":         {0.05, 0.06, 0.04},
		"read/tar | cat/warm/overlayfs again":   {0.1},
		"read/tar | cat/warm/imagefs":           {1},
		"load memory/a docker-archive//imagefs": {5 << 20},
	})
	d.Machine = machine{Kernel: "Linux 9", CPU: "a processor", Cores: 3, Disk: "ext4", Date: "2026-01-02", Before: "0.1 0.2 0.3", After: "1 2 3", Took: "4s"}
	d.Targets = d.judge()
	d.Missing = []string{"something"}
	out := d.markdown(groups)
	for _, want := range []string{
		"Linux 9, a processor, 3 cores, files on ext4, 2026-01-02. Load averages before: 0.1 0.2 0.3, after: 1 2 3.",
		"differs from itself by a factor of 2.00 in the median row and 2.00 in the worst; its rounds spread by ±10%",
		"|  | state | overlayfs | overlayfs again | imagefs |",
		`| tar \| cat | warm | 50.0 ×1.00 (40.0–60.0) | 100 ×2.00 | 1000 ×20 |`,
		`| tar \| cat, warm, to overlayfs | ≤ 1.00 | imagefs 20 | not met |`,
		"| a docker-archive |  | 5.0 |",
		"- something\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(out, "## Removing") {
		t.Error("a table of nothing")
	}
	if t.Failed() {
		t.Log(out)
	}
}

// A measurement that fails ends itself only, and says why.
func TestGuarded(t *testing.T) {
	for want, f := range map[string]func(testing.TB){
		"":                        func(testing.TB) {},
		"first":                   func(t testing.TB) { t.Error("first"); t.Fatal("second") },
		"7 is odd":                func(t testing.TB) { t.Fatalf("%d is odd", 7); panic("went on") },
		absent + "needs a hammer": func(t testing.TB) { t.Skipf("needs a %s", "hammer"); panic("went on") },
	} {
		if got := guarded(t, f); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Who comes first changes from round to round, and who failed is left out.
func TestByTurns(t *testing.T) {
	r := &run{bench: &bench{rounds: 4}, t: t, until: time.Now().Add(time.Hour), out: map[string]string{}}
	var got []string
	r.everyRound(func(n int) {
		r.byTurns(n, []string{"a", "b", "c"}, func(t testing.TB, name string) {
			if name == "b" && n == 1 {
				t.Fatal("broke")
			}
			got = append(got, fmt.Sprint(n, name))
		})
	})
	if want := "0a 0b 0c 1c 1a 2c 2a 3a 3c"; strings.Join(got, " ") != want || r.out["b"] != "broke" {
		t.Errorf("%v, want %s; %v", got, want, r.out)
	}
	r.until, got = time.Now(), nil
	r.everyRound(func(n int) { got = append(got, fmt.Sprint(n)) })
	if len(got) != 3 {
		t.Errorf("%d rounds when the time is used up, want 3", len(got))
	}
}

// What is written can be compared with the next time.
func TestDocumentIsKept(t *testing.T) {
	dir := t.TempDir()
	if _, err := readDocument(filepath.Join(dir, "results.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first run: %v", err)
	}
	d := collect(map[string][]float64{"read/find -printf/warm/overlayfs": {1, 2}, "read/find -printf/warm/imagefs": {1}})
	d.Machine, d.Targets, d.Missing = thisMachine(), d.judge(), []string{"something"}
	if err := writeDocument(dir, d, d.markdown(groups)); err != nil {
		t.Fatal(err)
	}
	again, err := readDocument(filepath.Join(dir, "results.json"))
	if err != nil || !reflect.DeepEqual(again, d) {
		t.Errorf("read %+v %v, wrote %+v", again, err, d)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "RESULTS.md")); err != nil || string(b) != d.markdown(groups) {
		t.Errorf("RESULTS.md: %v", err)
	}
	if m := d.Machine; m.Kernel == "" || m.CPU == "" || m.Cores == 0 || m.Disk == "" || m.Before == "" {
		t.Errorf("the machine is %+v", m)
	}
}
