package rootfs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"imagefs/store/storetest"
)

func TestDiff(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 100_000)
	base := storetest.Tar(storetest.Entry{Name: "same", Body: "same"}, storetest.Entry{Name: "moved", Body: big})
	one, _ := open(t, base, storetest.Tar(storetest.Entry{Name: "end", Body: big + "1"}, storetest.Entry{Name: "gone", Body: "12345"}))
	two, _ := open(t, base, storetest.Tar(storetest.Entry{Name: "end", Body: big + "2"}, storetest.Entry{Name: "new", Body: "123"}, storetest.Entry{Name: "moved", Body: big}))
	var got []string
	var tally Tally
	err := Diff(ctx, one, two, func(d Difference) bool {
		got = append(got, string(d.Op)+" "+d.Path+" "+d.What.String())
		tally.Add(d)
		return true
	})
	if want := []string{"C /end content", "D /gone ", "A /new "}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	sum, err := tally.Summary(ctx, one, two)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Summary{Added: Count{1, 3}, Deleted: Count{1, 5}, Changed: Count{1, int64(len(big) + 1)}, Growth: -2}); sum != want {
		t.Errorf("summary %+v, want %+v", sum, want)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := Diff(stopped, one, two, func(Difference) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("after an interruption: %v", err)
	}
}

// A file counts once in each list, however many of its names are there, and
// grows or frees what its first or last name does.
func TestTallyCountsFilesOnce(t *testing.T) {
	base := storetest.Tar(storetest.Entry{Name: "d/a", Body: "12345"}, storetest.Entry{Name: "d/b", Type: '1', Link: "d/a"}, storetest.Entry{Name: "kept", Type: '1', Link: "d/a"})
	one, _ := open(t, base)
	two, _ := open(t, base, storetest.Files(".wh.d"))
	three, _ := open(t, base, storetest.Files(".wh.d", ".wh.kept"))
	for _, c := range []struct {
		what string
		a, b *FS
		want Summary
	}{
		{"two of three names", one, two, Summary{Deleted: Count{3, 5}}},
		{"two of three names, back", two, one, Summary{Added: Count{3, 5}}},
		{"the last one", two, three, Summary{Deleted: Count{1, 5}, Growth: -5}},
		{"all", three, one, Summary{Added: Count{4, 5}, Growth: 5}},
	} {
		var tally Tally
		if err := Diff(ctx, c.a, c.b, func(d Difference) bool { tally.Add(d); return true }); err != nil {
			t.Fatal(err)
		}
		got, err := tally.Summary(ctx, c.a, c.b)
		// Times of the root are no matter here.
		got.Changed = Count{}
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.what, got, err, c.want)
		}
	}
}

// Each of many odd paths has a line of its own.
func TestDiffLines(t *testing.T) {
	none, _ := open(t, storetest.Files("d/"))
	odd, _ := open(t, storetest.Files("d/", "a b=", "a\tb=", `a\nb=`, "a\nb=", `a\x01=`, "a\x01="))
	seen := map[string]bool{}
	n := 0
	if err := Diff(ctx, none, odd, func(d Difference) bool {
		if line := string(d.AppendLine(nil)); d.Op == 'A' {
			n++
			if strings.Count(line, "\n") != 1 || seen[line] {
				t.Errorf("%q is one more", line)
			}
			seen[line] = true
		}
		return true
	}); err != nil || n != 6 {
		t.Errorf("%d paths, %v", n, err)
	}
}
