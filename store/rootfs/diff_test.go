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
	var sum Summary
	err := Diff(ctx, one, two, func(d Difference) bool {
		got = append(got, string(d.Op)+" "+d.Path+" "+d.What.String())
		sum.Add(d)
		return true
	})
	if want := []string{"C /end content", "D /gone ", "A /new "}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
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
