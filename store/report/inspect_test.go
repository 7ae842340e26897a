package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// graphImage knows where its layers are.
type graphImage struct{ *fakeImage }

var _ Graph = graphImage{}

func (graphImage) Graph() (string, map[string]string) {
	return "overlay2", map[string]string{"UpperDir": "/u/diff"}
}

// full is a config with every field that Docker knows.
const full = `{"architecture":"arm","variant":"v7","os":"linux","os.version":"1","author":"me","comment":"c","container":"0d68",
"created":"2024-01-01T10:00:00.123456789Z","docker_version":"20.10","config":{"Hostname":"h","User":"u","ExposedPorts":{"80/tcp":{},"443/tcp":{}},
"Env":["A=1"],"Cmd":"one word","Entrypoint":["/e"],"Healthcheck":{"Test":["NONE"],"Interval":30000000000},"Volumes":{"/v":{}},
"Labels":{"b":"<2>","a":"1"},"StopTimeout":0,"Shell":["sh"],"Unknown":1},
"rootfs":{"type":"layers","diff_ids":["sha256:0e14cea0b32b6f09a3705299612858b3c11247e5f0d24bc17651a0236a04b87a"]}}`

func TestInspect(t *testing.T) {
	img := image(full, 42)
	img.parent = digest.FromString("parent")
	img.tagged = time.Date(2024, 1, 2, 0, 0, 0, 5, time.UTC)
	refs := NewRefs(store.Names{Tags: map[string]digest.Digest{"a:1": img.ID()}})
	got := text(t, func(w *bytes.Buffer) error {
		return WriteInspect(w, []Inspection{Inspect(graphImage{img}, refs)}, "json")
	})
	want(t, got, `[{"Id":"`+string(img.ID())+`","RepoTags":["a:1"],"RepoDigests":[],"Parent":"`+string(img.parent)+`","Comment":"c",`+
		`"Created":"2024-01-01T10:00:00.123456789Z","Container":"0d68","ContainerConfig":{"Hostname":"","Domainname":"","User":"",`+
		`"AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,`+
		`"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null},"DockerVersion":"20.10","Author":"me",`+
		`"Config":{"Hostname":"h","Domainname":"","User":"u","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,`+
		`"ExposedPorts":{"443/tcp":{},"80/tcp":{}},"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["A=1"],"Cmd":["one word"],`+
		`"Healthcheck":{"Test":["NONE"],"Interval":30000000000},"Image":"","Volumes":{"/v":{}},"WorkingDir":"","Entrypoint":["/e"],`+
		`"OnBuild":null,"Labels":{"a":"1","b":"<2>"},"StopTimeout":0,"Shell":["sh"]},"Architecture":"arm","Variant":"v7","Os":"linux",`+
		`"OsVersion":"1","Size":42,"VirtualSize":42,"GraphDriver":{"Data":{"UpperDir":"/u/diff"},"Name":"overlay2"},`+
		`"RootFS":{"Type":"layers","Layers":["sha256:0e14cea0b32b6f09a3705299612858b3c11247e5f0d24bc17651a0236a04b87a"]},`+
		`"Metadata":{"LastTagTime":"2024-01-02T00:00:00.000000005Z"}}]`+"\n")
}

// A config of OCI has few fields, and a hostile one has fields of any type.
func TestInspectSparse(t *testing.T) {
	for name, c := range map[string]struct{ config, template, want string }{
		"nothing":    {`{}`, `{{.Os}} {{json .Config}} {{.Created}} {{.Metadata.LastTagTime.IsZero}}`, "linux null 0001-01-01T00:00:00Z true\n"},
		"comment":    {`{"history":[{"comment":"x"},{"comment":"y"}]}`, `{{.Comment}}`, "y\n"},
		"types":      {`{"config":{"Env":7,"Cmd":{"a":1},"Labels":{"a":1,"b":"2"},"User":"u"},"docker_version":[]}`, `{{.Config.User}} {{.Config.Cmd}} {{.Config.Env}}`, "u [] []\n"},
		"controls":   {`{"author":"\u001b[2J\u009b\u202e"}`, "json", `"Author":"\u001b[2J\u009b\u202e"`},
		"raw names":  {`{}`, `{{index .RootFS "Type"}}|{{.Id}}`, "|sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n"},
		"extra year": {`{"created":"9999-12-31T23:59:59.999999999Z"}`, `{{.Created}}`, "9999-12-31T23:59:59.999999999Z\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := text(t, func(w *bytes.Buffer) error {
				return WriteInspect(w, []Inspection{Inspect(image(c.config), nil)}, c.template)
			})
			if !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestWriteInspect(t *testing.T) {
	want(t, text(t, func(w *bytes.Buffer) error { return WriteInspect(w, nil, "") }), "[]\n")
	want(t, text(t, func(w *bytes.Buffer) error { return WriteInspect(w, nil, "{{.Id}}") }), "\n")
	all := []Inspection{Inspect(image(`{"author":"a"}`), nil), Inspect(image(`{"author":"b"}`), nil)}
	want(t, text(t, func(w *bytes.Buffer) error { return WriteInspect(w, all, "{{.Author}}") }), "a\nb\n")
	out := text(t, func(w *bytes.Buffer) error { return WriteInspect(w, all, "") })
	if !strings.HasPrefix(out, "[\n    {\n        \"Id\": ") || !json.Valid([]byte(out)) {
		t.Errorf("got %s", out)
	}
	for _, f := range []string{"{{", "{{.Nothing}}"} {
		if err := WriteInspect(&bytes.Buffer{}, all, f); !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: %v", f, err)
		}
	}
}
