package change_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"imagefs/store"
	"imagefs/store/change"
)

// TestAsDocker applies what a dockerd 20.10.24 was given with `docker import
// --change`, and wants the "config" that it wrote, byte for byte, or an error
// where it had one. integration/engines asks a daemon again.
func TestAsDocker(t *testing.T) {
	golden, err := os.ReadFile("testdata/docker.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(golden) {
		var c struct {
			Name    string
			Changes []string
			Config  json.RawMessage
			Error   string
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		n++
		t.Run(c.Name, func(t *testing.T) {
			var got store.ContainerConfig
			err := change.Apply(&got, c.Changes)
			if c.Error != "" {
				if !errors.Is(err, store.ErrInvalid) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%q: %v, docker says %s", c.Changes, err, c.Error)
				}
				return
			}
			if err != nil {
				t.Fatalf("%q: %v", c.Changes, err)
			}
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			if err := e.Encode(got); err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(b.String()) != string(c.Config) {
				t.Errorf("%q:\n%swant\n%s", c.Changes, b.String(), c.Config)
			}
		})
	}
	if n < 80 {
		t.Errorf("only %d cases", n)
	}
}

func TestStopSignal(t *testing.T) {
	for text, good := range map[string]bool{
		"SIGTERM": true, "TERM": true, "sigkill": true, "9": true, "RTMIN": true, "SIGRTMIN+3": true, "RTMAX-1": true,
		"": false, "0": false, "-1": false, "SIGNOTHING": false, "RTMIN+": false, "RTMIN+99": false, "$S": false,
	} {
		var c store.ContainerConfig
		err := change.Apply(&c, []string{"STOPSIGNAL " + text})
		if good && (err != nil || c.StopSignal != text) || !good && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %q, %v", text, c.StopSignal, err)
		}
	}
}

// What is written wrong costs neither memory nor time, and changes no limits.
func TestBounds(t *testing.T) {
	double := slices.Repeat([]string{"ENV A=$A$A"}, 64)
	var c store.ContainerConfig
	if err := change.Apply(&c, append([]string{"ENV A=1234567890"}, double...)); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a variable that doubles itself: %.100v", err)
	}
	many := append([]string{"ENV A=1234567890"}, double[:16]...)
	for n := range 400 {
		many = append(many, fmt.Sprintf("ENV B%d=$A", n))
	}
	c = store.ContainerConfig{}
	if err := change.Apply(&c, many); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("many large variables: %.100v", err)
	}
	c = store.ContainerConfig{}
	if err := change.Apply(&c, append(many[:17:17], "ENV C="+strings.Repeat("$A", 400))); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a large variable many times: %.100v", err)
	}
	if err := change.Apply(&c, []string{"ENV A=" + strings.Repeat("x", 2<<20)}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("two megabytes: %.100v", err)
	}
}

func FuzzApply(f *testing.F) {
	for _, s := range []string{`ENV A="$B" \'`, "HEALTHCHECK --a='b CMD [", "LABEL \\", "EXPOSE 1-2:3/tcp", "CMD [\"\xff\"]", "ONBUILD \\\n#\nRUN", "ENV A=${B:-${C:?x}}"} {
		f.Add("ENV B=1", s)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		var c store.ContainerConfig
		err := change.Apply(&c, []string{first, second})
		if err != nil && !errors.Is(err, store.ErrInvalid) && !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%q %q: %v", first, second, err)
		}
	})
}
