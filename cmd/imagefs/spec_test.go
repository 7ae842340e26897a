package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll("with:colon/x", 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]spec{
		"/var/lib/docker":             {path: "/var/lib/docker"},
		"docker:/var/lib/docker":      {kind: "docker", path: "/var/lib/docker"},
		"old=docker:/mnt/d":           {name: "old", kind: "docker", path: "/mnt/d"},
		"old=/mnt/d":                  {name: "old", path: "/mnt/d"},
		"podman:/var/lib/containers":  {kind: "podman", path: "/var/lib/containers"},
		"containerd:x":                {kind: "containerd", path: dir + "/x"},
		"app.tar":                     {path: dir + "/app.tar"},
		"./app.tar":                   {path: dir + "/app.tar"},
		"/path/with:colon":            {path: "/path/with:colon"},
		"/path/with=sign:and,all":     {path: "/path/with=sign:and,all"},
		"./a=b":                       {path: dir + "/a=b"},
		"./docker:x":                  {path: dir + "/docker:x"},
		"with:colon":                  {path: dir + "/with:colon"},
		"with:colon/y":                {path: dir + "/with:colon/y"},
		"n=with:colon":                {name: "n", path: dir + "/with:colon"},
		"docker:/a:b":                 {kind: "docker", path: "/a:b"},
		"docker:podman:x":             {kind: "docker", path: dir + "/podman:x"},
		"a/b=c":                       {path: dir + "/a/b=c"},
		"Big:Thing":                   {path: dir + "/Big:Thing"},
		strings.Repeat("n", 65) + "=": {path: dir + "/" + strings.Repeat("n", 65) + "="},
	} {
		if got, err := parseSpec(text); err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", text, got, err, want)
		}
	}
	for text, word := range map[string]string{
		"": "a path is missing", "docker:": "a path is missing", "n=": "a path is missing", "n=docker:": "a path is missing",
		"dokcer:/var/lib/docker": `no kind of store "dokcer"`, "n=zfs:x": `no kind of store "zfs"`, "/a\nb": "a path is missing", "/a\x00": "a path is missing",
	} {
		if got, err := parseSpec(text); err == nil || !isUsage(err) || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %+v %v, want an error with %q", text, got, err, word)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"/a", "n=docker:/a", "a=b=c:d", "docker:docker:x", "./a=b", "=", ":", "n=:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSpec(text)
		if err != nil {
			if !isUsage(err) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if !filepath.IsAbs(s.path) || strings.ContainsAny(s.path, "\x00\n") {
			t.Errorf("%q: path %q", text, s.path)
		}
		// What the process in the background is told is the same again.
		if again, err := parseSpec(s.String()); err != nil || again != s {
			t.Errorf("%q: %+v, again from %q: %+v %v", text, s, s.String(), again, err)
		}
	})
}

func TestNames(t *testing.T) {
	specs := []spec{
		{path: "/a/store"}, {path: "/b/store"}, {path: "/var/lib/docker"}, {path: "/x/ä b.tar"}, {path: "/"},
		{name: "store-2", path: "/c"}, {path: "/d/..hidden"}, {path: "/" + strings.Repeat("l", 200)}, {name: "docker", path: "/var/lib/docker", found: true},
	}
	got, err := nameAll(specs)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range got {
		names = append(names, s.name)
	}
	want := []string{"store", "store-3", "docker", "b.tar", "store-4", "store-2", "hidden", strings.Repeat("l", 60), "docker-2"}
	if !slices.Equal(names, want) {
		t.Errorf("named %q, want %q", names, want)
	}
	if _, err := nameAll([]spec{{name: "a", path: "/a"}, {name: "a", path: "/b"}}); err == nil || !isUsage(err) {
		t.Errorf("one name twice: %v", err)
	}
}

func TestFromMount(t *testing.T) {
	root := newRootCommand(newApp(nil, nil, nil))
	for args, want := range map[string]string{
		"/a /mnt -o rw,dev,suid":              "mount -o rw -- /a /mnt",
		"docker:/a /mnt -o ro":                "mount -o ro -- docker:/a /mnt",
		"none /mnt -o dev,suid":               "mount -- /mnt",
		"none /mnt -o ro,store=/a,store=n=/b": "mount -o ro -- /a n=/b /mnt",
		"/a /mnt -o with_suid,with_dev,nodev": "mount -o suid,dev,nodev -- /a /mnt",
		"mount /mnt -o ro":                    "mount /mnt -o ro",
		"/a mnt -o ro":                        "/a mnt -o ro",
		"images -q":                           "images -q",
		"--store /a -o ro":                    "--store /a -o ro",
		"lod /x -i y":                         "lod /x -i y",
	} {
		if got := strings.Join(fromMount(root, strings.Fields(args)), " "); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}
