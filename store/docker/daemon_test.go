package docker

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/daemon/api"
)

// A daemon that is not shown to be the store's is not asked for anything.
func TestLiveOthers(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(t *testing.T, s *Store, d *fake)
		says string
	}{
		"another root":    {func(t *testing.T, s *Store, d *fake) { d.info.DockerRootDir = t.TempDir() }, "its data root is"},
		"no root":         {func(t *testing.T, s *Store, d *fake) { d.info.DockerRootDir = "" }, "does not say"},
		"a relative root": {func(t *testing.T, s *Store, d *fake) { d.info.DockerRootDir = "." }, "does not say"},
		"a missing root":  {func(t *testing.T, s *Store, d *fake) { d.info.DockerRootDir = "/nonexistent" }, "cannot be looked at"},
		"a file":          {func(t *testing.T, s *Store, d *fake) { d.info.DockerRootDir = "/proc/self/exe" }, "cannot be looked at"},
		"containerd's images": {func(t *testing.T, s *Store, d *fake) { d.info.Driver = "overlayfs" },
			`its storage driver is "overlayfs" and not overlay2`},
		"another ID": {func(t *testing.T, s *Store, d *fake) {
			if err := os.WriteFile(filepath.Join(s.path, "engine-id"), []byte("x\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "its ID is"},
		"nobody":  {func(t *testing.T, s *Store, d *fake) { s.opts.Hosts = []string{"unix:///nonexistent/s"} }, "no such file"},
		"nowhere": {func(t *testing.T, s *Store, d *fake) { s.opts.Hosts = []string{} }, "no address"},
		"ssh":     {func(t *testing.T, s *Store, d *fake) { s.opts.Hosts = []string{"ssh://root@host"} }, "can be used"},
		"another host": {func(t *testing.T, s *Store, d *fake) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: d}
			go func() { _ = srv.Serve(l) }()
			t.Cleanup(func() { srv.Close() })
			d.info.Name = "elsewhere"
			s.opts.Hosts = []string{"tcp://" + l.Addr().String()}
		}, "runs on the host"},
	} {
		t.Run(name, func(t *testing.T) {
			s, d := living(t)
			c.set(t, s, d)
			check := unwritten(t, s.path)
			_, rm := s.Remove(ctx, "app:v1", true)
			_, ld := tryLoad(s, "9", nil, layerTar(t, "c=1"))
			for what, err := range map[string]error{
				"tag": s.Tag(ctx, "x:1", idOfName(t, s, "app:v1")), "untag": s.Untag(ctx, "only:1"), "remove": rm, "load": ld,
				"rename": s.Rename(ctx, map[string]string{"app:v1": "x:1"}),
			} {
				if !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--docker-host") {
					t.Errorf("%s: %v", what, err)
				}
			}
			d.was(t, "nothing")
			check()
		})
	}
}

// The daemon is found where several may be, and each change asks anew.
func TestLiveFound(t *testing.T) {
	s, d := living(t)
	other := &fake{info: api.Daemon{Driver: "overlay2", DockerRootDir: t.TempDir()}}
	other.serve(t)
	s.opts.Hosts = []string{"unix:///nonexistent", "junk", other.host, d.host}
	if err := os.WriteFile(filepath.Join(s.path, "engine-id"), []byte("the:id"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Untag(ctx, "app:v1"); err != nil {
		t.Error(err)
	}
	d.was(t, "untag", "DELETE /images/app:v1?noprune=1")
	other.was(t, "the other")
	// A store that was opened read-only asks nobody.
	s.opts.ReadOnly = true
	if err := s.Untag(ctx, "app:v1"); !errors.Is(err, store.ErrReadOnly) {
		t.Error(err)
	}
	d.was(t, "read-only")
}

// A daemon that starts or stops between the beginning and the end of a load.
func TestLiveMeanwhile(t *testing.T) {
	s, d := living(t)
	in, err := s.Ingest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	if err := os.Remove(filepath.Join(s.path, "volumes/metadata.db")); err != nil {
		t.Fatal(err)
	}
	if err := in.Commit(ctx, nil); !errors.Is(err, store.ErrBusy) || !strings.Contains(err.Error(), "stopped meanwhile") {
		t.Error(err)
	}
	d.was(t, "nothing")
	own, err := s.Ingest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Abort()
	db, err := os.Create(filepath.Join(s.path, "volumes/metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := unix.Flock(int(db.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := own.Commit(ctx, nil); !errors.Is(err, store.ErrBusy) || !strings.Contains(err.Error(), "started on") {
		t.Error(err)
	}
	d.was(t, "nothing")
}
