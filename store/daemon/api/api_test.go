package api

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"imagefs/store"
	"imagefs/store/storetest"
)

// daemon serves a handler on a socket and returns a Client of it.
func daemon(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	c, err := New(storetest.ServeSocket(t, h))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// calls are all that a Client can do.
var calls = map[string]func(context.Context, *Client) error{
	"info":       func(ctx context.Context, c *Client) error { _, err := c.Info(ctx); return err },
	"containers": func(ctx context.Context, c *Client) error { _, err := c.Containers(ctx); return err },
	"tag":        func(ctx context.Context, c *Client) error { return c.Tag(ctx, "sha256:1", "a", "b") },
	"remove":     func(ctx context.Context, c *Client) error { _, err := c.Remove(ctx, "a:b", false, false); return err },
	"load":       func(ctx context.Context, c *Client) error { return c.Load(ctx, emptyTar) },
}

func emptyTar(w io.Writer) error { return tar.NewWriter(w).Close() }

func patience(t *testing.T, d time.Duration) {
	a, w := askTime, workTime
	askTime, workTime = d, d
	t.Cleanup(func() { askTime, workTime = a, w })
}

func TestNew(t *testing.T) {
	for host, ok := range map[string]bool{
		"unix:///run/docker.sock": true, "tcp://127.0.0.1:2375": true, "tcp://[::1]:2375": true, "tcp://h:2375/": true,
		"": false, "/run/docker.sock": false, "unix://run/docker.sock": false, "ssh://root@host": false,
		"http://127.0.0.1:1": false, "tcp://": false, "tcp://host": false, "fd://": false, "npipe:////./pipe/x": false,
	} {
		if _, err := New(host); (err == nil) != ok || err != nil && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestRequests(t *testing.T) {
	var got []string
	info := `{"ID":"i","Name":"n","Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]],"DockerRootDir":"/r","Containers":3,
		"Containerd":{"Address":"/c","Namespaces":{"Containers":"moby","Plugins":"p"}}}`
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.String())
		switch {
		case r.Method == http.MethodDelete:
			fmt.Fprint(w, `[{"Untagged":"a/b:c"},{"Deleted":"sha256:1"}]`)
		case r.URL.Path == "/info":
			fmt.Fprint(w, info)
		case r.URL.Path == "/containers/json":
			fmt.Fprint(w, `[{"Id":"1","ImageID":"sha256:1","State":"running"},{"Id":"2"}]`)
		case strings.HasSuffix(r.URL.Path, "/tag"):
			w.WriteHeader(http.StatusCreated)
		}
	})
	if d, err := c.Info(t.Context()); err != nil || d != (Daemon{"i", "n", "overlay2", "/r", false, "/c", "moby"}) {
		t.Errorf("%+v %v", d, err)
	}
	info = `{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}`
	if d, err := c.Info(t.Context()); err != nil || d != (Daemon{Driver: "overlayfs", Snapshots: true}) {
		t.Errorf("%+v %v", d, err)
	}
	if all, err := c.Containers(t.Context()); err != nil || !slices.Equal(all, []Container{{"1", "sha256:1"}, {ID: "2"}}) {
		t.Errorf("%+v %v", all, err)
	}
	if c.Peer() != os.Getpid() {
		t.Errorf("the peer is %d", c.Peer())
	}
	if err := c.Tag(t.Context(), "sha256:1", "localhost:5000/a", "b"); err != nil {
		t.Error(err)
	}
	out, err := c.Remove(t.Context(), "a/b:c", true, true)
	if err != nil || len(out) != 2 || out[0].Untagged != "a/b:c" || out[1].Deleted != "sha256:1" {
		t.Errorf("%+v %v", out, err)
	}
	want := "GET /info, GET /info, GET /containers/json?all=1, POST /images/sha256:1/tag?repo=localhost%3A5000%2Fa&tag=b, DELETE /images/a/b:c?force=1&noprune=1"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		want   error
		says   string
	}{
		{404, `{"message":"No such image: a:b"}`, store.ErrNotFound, "docker: No such image: a:b"},
		{409, `{"message":"conflict: it is\nused"}`, store.ErrBusy, "conflict: it is used"},
		{400, `{"message":"invalid reference format"}`, store.ErrInvalid, "invalid reference format"},
		{403, `{"message":"authorization denied by plugin x"}`, fs.ErrPermission, "plugin x"},
		{500, `{"message":"boom \u001b[31m"}`, nil, "boom  [31m (status 500)"},
		{500, `<html>`, nil, "Internal Server Error"},
		{302, ``, nil, "Found"},
		{404, `{"message":"` + strings.Repeat("x", 1<<20) + `"}`, store.ErrNotFound, "Not Found"},
		{500, `{"message":"` + strings.Repeat("x", 5000) + `"}`, nil, strings.Repeat("x", 1000) + " ("},
	} {
		d := daemon(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		})
		for name, call := range calls {
			err := call(t.Context(), d)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, status %d: %.300v", name, c.status, err)
			}
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	endless := func(piece string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			for range 1 << 30 {
				if _, err := io.WriteString(w, piece); err != nil {
					return
				}
			}
		}
	}
	cut := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"stream":"Loaded `)
		panic(http.ErrAbortHandler)
	}
	for name, h := range map[string]http.HandlerFunc{
		"spaces": endless(strings.Repeat(" ", 4096)), "an endless string": endless(`"` + strings.Repeat("x", 4096)),
		"many messages": endless(strings.Repeat(`{"stream":"x"}`, 1000)), "a cut": cut,
		"no JSON": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") },
		"a huge header": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			w.WriteHeader(200)
		},
	} {
		c := daemon(t, h)
		for call, do := range calls {
			// The answer of a tag is not looked at; one message is an answer to a question.
			if call == "tag" && name == "no JSON" || call == "info" && name == "many messages" {
				continue
			}
			if err := do(t.Context(), c); err == nil {
				t.Errorf("%s: %s was accepted", call, name)
			}
		}
	}
}

func TestSilence(t *testing.T) {
	patience(t, 50*time.Millisecond)
	for name, h := range map[string]http.HandlerFunc{
		"at once":      func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"in an answer": func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); <-r.Context().Done() },
	} {
		c := daemon(t, h)
		for call, do := range calls {
			if err := do(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no answer in") {
				t.Errorf("%s, %s: %v", call, name, err)
			}
		}
	}
}

func TestNobodyThere(t *testing.T) {
	c, err := New("unix:///nonexistent/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	for call, do := range calls {
		if err := do(t.Context(), c); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/docker.sock") {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func TestLoad(t *testing.T) {
	archive := func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Repeat("archive", 100_000))
		return err
	}
	for _, c := range []struct {
		name   string
		answer string
		want   string // part of the error, "" for none
	}{
		{"nothing said", "", ""},
		{"loaded", `{"stream":"Loaded image: a:b\n"}` + "\r\n" + `{"stream":"Loaded image ID: sha256:1\n"}`, ""},
		{"an error", `{"errorDetail":{"message":"no space\nleft"},"error":"no space left"}`, "docker: no space left"},
		{"an old error", `{"stream":"x"} {"error":"bad"}`, "docker: bad"},
		{"cut in a message", `{"stream":"Loa`, "cannot be read"},
	} {
		got := 0
		d := daemon(t, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if got = len(b); err != nil {
				t.Error(err)
			}
			fmt.Fprint(w, c.answer)
		})
		err := d.Load(t.Context(), archive)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got != 700_000 {
			t.Errorf("%s: %d bytes came", c.name, got)
		}
	}
}

// A daemon that answers without reading has not loaded anything.
func TestLoadUnread(t *testing.T) {
	d := daemon(t, func(http.ResponseWriter, *http.Request) {})
	err := d.Load(t.Context(), func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	})
	if err == nil {
		t.Error("a load that nobody read was a success")
	}
}

// A load ends with its context, or its archive, as long as the daemon has not
// got the whole; then it is waited for.
func TestLoadInterrupted(t *testing.T) {
	came := make(chan error, 1)
	answer := make(chan struct{})
	d := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		came <- err
		<-answer
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Load(ctx, func(w io.Writer) error {
		_, _ = w.Write(make([]byte, 1<<20))
		cancel()
		_, err := w.Write(make([]byte, 64<<20))
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := <-came; err == nil {
		t.Error("the daemon saw the end of an archive that was cut off")
	}

	broken := errors.New("disk on fire")
	err = d.Load(t.Context(), func(w io.Writer) error {
		_, _ = w.Write(make([]byte, 1<<20))
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("an error of the archive: %v", err)
	}
	if err := <-came; err == nil {
		t.Error("the daemon saw the end of an archive that was cut off")
	}

	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Load(ctx, emptyTar) }()
	if err := <-came; err != nil {
		t.Error(err)
	}
	cancel()
	select {
	case err := <-done:
		t.Errorf("it was not waited for: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(answer)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A change that was sent is waited for, but not for ever.
func TestChangeInterrupted(t *testing.T) {
	l := leaveTime
	t.Cleanup(func() { leaveTime = l })
	came, answer, left := make(chan struct{}), make(chan struct{}), make(chan struct{}, 9)
	d := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		select {
		case <-answer:
			fmt.Fprint(w, `[]`)
		case <-r.Context().Done():
			left <- struct{}{}
		}
	})
	for _, call := range []string{"tag", "remove"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- calls[call](ctx, d) }()
		<-came
		cancel()
		answer <- struct{}{}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", call, err)
		}
		if err := calls[call](ctx, d); !errors.Is(err, context.Canceled) {
			t.Errorf("%s after the end: %v", call, err)
		}

		leaveTime = 50 * time.Millisecond
		ctx, cancel = context.WithCancel(t.Context())
		go func() { done <- calls[call](ctx, d) }()
		<-came
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "may still do it") {
			t.Errorf("%s: %v", call, err)
		}
		leaveTime = l
		<-left // or it would take the next one's answer
	}
}
