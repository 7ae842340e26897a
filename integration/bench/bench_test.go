package bench

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
)

var (
	full      = flag.Bool("full", false, "measure at full size; a run of all rows compares with results.json, and writes it and RESULTS.md")
	rounds    = flag.Int("rounds", 5, "measure each row this often")
	budget    = flag.Duration("budget", 14*time.Minute, "when this is used up, rows are measured three times only")
	only      = flag.String("rows", "", "only the rows whose \"group: row\" matches this regular expression; nothing is written")
	check     = flag.Bool("check", false, "fail if something became slower")
	manyFiles = flag.Int("files", 100000, "files of the image of many files")
)

func TestMain(m *testing.M) {
	if job := os.Getenv(jobVariable); job != "" {
		os.Exit(work(job, os.Args[1:]))
	}
	os.Exit(inPrivate(m))
}

// A row is measured by its function, round by round.
type row struct {
	group, name string
	weight      float64 // its share of the budget, next to the other rows'
	measure     func(r *run)
}

// bench is one run of all rows.
type bench struct {
	measured
	t       testing.TB
	base    string // a directory that is removed when everything is measured
	rounds  int
	end     time.Time // of the budget
	sets    map[string]*set
	ring    bool // imagefs can be mounted over io_uring
	loaded  loaded
	missing []string
}

// run is one row being measured.
type run struct {
	*bench
	t     testing.TB // of the row: a Fatal ends the row
	row   row
	until time.Time         // after this, only what has to be
	out   map[string]string // views that failed or are not here, and why
}

func TestBench(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	chosen := selected(t)
	b := &bench{t: t, base: t.TempDir(), rounds: *rounds, end: time.Now().Add(*budget), sets: map[string]*set{}}
	if !*full {
		b.rounds = 1
	}
	ownCache(t, b.dir(t))
	doc := document{Machine: thisMachine()}
	start := time.Now()
	allowRing(b)
	for n, r := range chosen {
		weight := 0.0
		for _, later := range chosen[n:] {
			weight += later.weight
		}
		began := time.Now()
		b.measureRow(t, r, time.Duration(float64(time.Until(b.end))*r.weight/weight))
		t.Logf("%s: %s: %s", r.group, r.name, time.Since(began).Round(time.Millisecond))
	}
	doc.Machine.After, doc.Machine.Took = loadAverages(), time.Since(start).Round(time.Second).String()
	doc.Results = b.results(baseOf)
	doc.Missing = b.missing
	doc.Targets = doc.judge()
	if *only != "" {
		doc.Targets = slices.DeleteFunc(doc.Targets, func(v verdict) bool { return v.Met == notMeasured })
	}
	if !*full {
		everyRow(t, chosen, doc.Results, b.missing)
	}
	b.publish(&doc)
}

// selected returns the rows that -rows names.
func selected(t *testing.T) []row {
	t.Helper()
	re, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	chosen := slices.DeleteFunc(allRows(), func(r row) bool { return !re.MatchString(r.group + ": " + r.name) })
	if len(chosen) == 0 {
		t.Fatalf("no row matches %s", *only)
	}
	return chosen
}

// everyRow fails the test for a row that was not measured without a reason.
func everyRow(t *testing.T, chosen []row, results []result, missing []string) {
	t.Helper()
	for _, r := range chosen {
		had := slices.ContainsFunc(results, func(s result) bool { return s.Group == r.group && s.Row == r.name })
		told := slices.ContainsFunc(missing, func(s string) bool { return strings.HasPrefix(s, r.group+": "+r.name) })
		if !had && !told && r.measure != nil {
			t.Errorf("%s: %s: nothing was measured", r.group, r.name)
		}
	}
}

// measureRow measures one row. When it fails that is one more thing that is
// missing, and the test fails in the end, but the other rows are measured.
func (b *bench) measureRow(t *testing.T, w row, share time.Duration) {
	t.Run(w.group+"/"+w.name, func(t *testing.T) {
		r := &run{bench: b, row: w, until: time.Now().Add(share), out: map[string]string{}}
		why := guarded(t, func(g testing.TB) {
			r.t = g
			w.measure(r)
		})
		if why != "" {
			b.lacks(w, "", why)
			t.Error(why)
		}
		for _, view := range sortedKeys(r.out) {
			b.lacks(w, view, strings.TrimPrefix(r.out[view], absent))
			if !strings.HasPrefix(r.out[view], absent) {
				t.Errorf("%s: %s", view, r.out[view])
			}
		}
	})
}

func (b *bench) lacks(w row, view, why string) {
	what := w.group + ": " + w.name
	if view != "" {
		what += ", " + view
	}
	// In one line, and without the names of directories that are gone by then.
	why = strings.ReplaceAll(strings.Join(strings.Fields(why), " "), b.base, "…")
	why = strings.ReplaceAll(why, os.TempDir(), "$TMPDIR") // the results are kept in the repository
	b.missing = append(b.missing, what+": "+strings.ToValidUTF8(why[:min(400, len(why))], ""))
}

// absent begins the reason of what is not here, which is no failure.
const absent = "absent: "

// without says that a column cannot be measured here, and why; "" is the whole row.
func (r *run) without(view, why string) {
	r.out[view] = absent + why
}

// everyRound calls f for the rounds that the budget has time for: all of them,
// or three when it is used up.
func (r *run) everyRound(f func(n int)) {
	for n := range r.rounds {
		if n >= 3 && time.Now().After(r.until) {
			r.t.Logf("%d rounds: the time for this row is used up", n)
			return
		}
		f(n)
	}
}

// byTurns calls f for each name, in another order in each round. A name that
// fails is not measured again in this row.
func (r *run) byTurns(round int, names []string, f func(t testing.TB, name string)) {
	for i := range names {
		name := names[(i+round)%len(names)]
		if _, gone := r.out[name]; gone {
			continue
		}
		if why := guarded(r.t, func(t testing.TB) { f(t, name) }); why != "" {
			r.out[name] = why
		}
	}
}

// add adds a time.
func (r *run) add(state, view string, d time.Duration) { r.addMoved(state, view, d, 0) }

// addMoved adds a time in which bytes were moved.
func (r *run) addMoved(state, view string, d time.Duration, moved int64) {
	r.measured.add(key{r.row.group, r.row.name, state, view}, seconds, d.Seconds(), moved)
}

// addBytes adds an amount of memory.
func (r *run) addBytes(state, view string, n int64) {
	r.measured.add(key{r.row.group, r.row.name, state, view}, bytes, float64(n), 0)
}

// dir makes a directory that stays until everything is measured.
func (b *bench) dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp(b.base, "")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// dropCaches makes the machine forget what it has read. Not in the short run:
// other tests would wait for it.
func dropCaches(t testing.TB) {
	t.Helper()
	if !*full {
		return
	}
	shell(t, "sync")
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func shell(t testing.TB, command string) {
	t.Helper()
	harness.RunCmd(t, exec.Command("sh", "-c", command))
}

// publish prints the report and, after a full run of all rows, compares it with
// the last one and writes it.
func (b *bench) publish(doc *document) {
	report := doc.markdown(groups)
	fmt.Println(report)
	if !*full {
		return
	}
	dir := filepath.Join(harness.Repo(), "integration/bench")
	old, err := readDocument(filepath.Join(dir, "results.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fmt.Println("No comparison: there are no earlier results.")
	case err != nil:
		b.t.Error(err)
	default:
		worse := compare(old, doc)
		for _, w := range worse {
			fmt.Println("SLOWER:", w)
		}
		if len(worse) == 0 {
			fmt.Printf("Nothing is slower than on %s beyond the noise.\n", old.Machine.Date)
		} else if *check {
			b.t.Errorf("%d rows are slower than on %s", len(worse), old.Machine.Date)
		}
	}
	if *only != "" {
		return
	}
	if err := writeDocument(dir, doc, report); err != nil {
		b.t.Error(err)
	}
}
