package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/storetest"
)

var rootTar = storetest.Files("etc/", "etc/os-release=ID=test\n", "bin/", "bin/sh=#!\n")

// One tar, however it comes, is one image.
func TestImport(t *testing.T) {
	forms := map[string][]byte{
		"plain": rootTar, "gzip": storetest.Gzip(rootTar), "gzip in two": storetest.GzipTwice(rootTar),
		"zstd": storetest.Zstd(rootTar), "xz": storetest.XZ(rootTar), "empty": storetest.Tar(),
	}
	for name, b := range forms {
		want := digest.FromBytes(rootTar)
		if name == "empty" {
			want = digest.FromBytes(b)
		}
		path := filepath.Join(t.TempDir(), "root.tar")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		o := store.ImportOptions{Name: "docker.io/me/app", Changes: []string{"ENV A=<1>"}, Message: "made & kept", Platform: "linux/arm/v6"}
		for way, load := range map[string]func(*Loader) (store.Loaded, error){
			"path": func(l *Loader) (store.Loaded, error) { return l.ImportPath(t.Context(), path, o) },
			"file": func(l *Loader) (store.Loaded, error) { return l.Import(t.Context(), file, o) },
			"pipe": func(l *Loader) (store.Loaded, error) { return l.Import(t.Context(), pipe(b), o) },
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				var last Progress
				sink := storetest.Sink{}
				got, err := load(NewLoader(&sink, Options{Progress: func(p Progress) { last = p }}))
				if err != nil {
					t.Fatal(err)
				}
				imgs := sink.Images()
				if len(imgs) != 1 || sink.Open() != 0 || len(imgs[0].Layers) != 1 || imgs[0].Layers[0].DiffID != want {
					t.Fatalf("%d open, committed %v", sink.Open(), imgs)
				}
				if got.ID != digest.FromBytes(imgs[0].Config) || !reflect.DeepEqual(got.Names, []string{"me/app:latest"}) || !reflect.DeepEqual(imgs[0].Names, got.Names) {
					t.Errorf("told of %v", got)
				}
				if last.Read != int64(len(b)) || way != "pipe" && last.Total != int64(len(b)) {
					t.Errorf("progress ended with %+v of %d bytes", last, len(b))
				}
				asDocker(t, imgs[0].Config, want)
			})
		}
	}
}

// asDocker checks a config against the form that a dockerd 20.10 gives one.
func asDocker(t *testing.T, config []byte, diff digest.Digest) {
	t.Helper()
	var c struct{ Created string }
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	const empty = `"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":%s,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null`
	want := `{"architecture":"arm","comment":"made \u0026 kept","config":{` + fmt.Sprintf(empty, `["A=\u003c1\u003e"]`) +
		`},"container_config":{` + fmt.Sprintf(empty, "null") + `},"created":"` + c.Created +
		`","history":[{"created":"` + c.Created + `","comment":"made \u0026 kept"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["` + string(diff) + `"]},"variant":"v6"}`
	if string(config) != want {
		t.Errorf("config\n%s\nwant\n%s", config, want)
	}
}

func TestImportDefaults(t *testing.T) {
	sink := storetest.Sink{}
	if _, err := NewLoader(&sink, Options{}).Import(t.Context(), bytes.NewReader(rootTar), store.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	img := sink.Images()[0]
	cfg, err := store.ParseConfig(img.Config)
	if err != nil || len(img.Names) != 0 || cfg.OS != "linux" || cfg.Architecture != host.Arch || cfg.History[0].Comment != "Imported from -" || !cfg.Created.Equal(cfg.History[0].Created) {
		t.Errorf("%+v, %v", cfg, err)
	}
	if strings.Contains(string(img.Config), "docker_version") {
		t.Error("it says that a Docker made it")
	}
}

// What cannot be imported leaves nothing, and the error tells why.
func TestImportFails(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "socket")
	if err := unix.Mknod(fifo, unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the line is down")
	long := storetest.Files("a=" + strings.Repeat("x", 100_000))
	flipped := storetest.Gzip(long)
	flipped[len(flipped)-5] ^= 1
	good := func() io.Reader { return bytes.NewReader(rootTar) }
	for name, c := range map[string]struct {
		r    io.Reader
		path string
		o    store.ImportOptions
		want error
	}{
		"nothing":           {r: strings.NewReader(""), want: store.ErrCorrupt},
		"text":              {r: strings.NewReader(strings.Repeat("hello\n", 1000)), want: store.ErrCorrupt},
		"cut short":         {r: bytes.NewReader(long[:50_000]), want: store.ErrCorrupt},
		"compressed, cut":   {r: bytes.NewReader(storetest.Gzip(rootTar)[:60]), want: store.ErrCorrupt},
		"bad checksum":      {r: bytes.NewReader(flipped), want: store.ErrCorrupt},
		"input fails":       {r: io.MultiReader(bytes.NewReader(long[:50_000]), failing{broken}), want: broken},
		"bad name":          {r: good(), o: store.ImportOptions{Name: "A B"}, want: store.ErrInvalid},
		"digest as name":    {r: good(), o: store.ImportOptions{Name: "a@" + string(digest.FromString("x"))}, want: store.ErrInvalid},
		"bad change":        {r: good(), o: store.ImportOptions{Changes: []string{"RUN x"}}, want: store.ErrInvalid},
		"bad platform":      {r: good(), o: store.ImportOptions{Platform: "x"}, want: store.ErrInvalid},
		"other system":      {r: good(), o: store.ImportOptions{Platform: "windows/amd64"}, want: store.ErrInvalid},
		"enormous message":  {r: good(), o: store.ImportOptions{Message: strings.Repeat("x", store.MaxConfigSize)}, want: store.ErrTooLarge},
		"directory":         {path: dir, want: store.ErrInvalid},
		"socket":            {path: fifo, want: store.ErrInvalid},
		"no such file":      {path: filepath.Join(dir, "none"), want: store.ErrNotFound},
		"archive of images": {r: bytes.NewReader(storetest.Docker(storetest.Image{Layers: [][]byte{rootTar}}).Tar())}, // files like any others
	} {
		t.Run(name, func(t *testing.T) {
			sink := storetest.Sink{}
			l := NewLoader(&sink, Options{})
			var err error
			if c.path != "" {
				_, err = l.ImportPath(t.Context(), c.path, c.o)
			} else {
				_, err = l.Import(t.Context(), c.r, c.o)
			}
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if n := len(sink.Images()); sink.Open() != 0 || n != 0 && err != nil {
				t.Errorf("%d open, %d images", sink.Open(), n)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// An import that is interrupted while it waits for its input ends at once.
func TestImportInterrupted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.Write(rootTar[:1024]); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	sink := storetest.Sink{OnUnpack: func(io.Reader) error { stop(); return nil }}
	if _, err := NewLoader(&sink, Options{}).Import(ctx, r, store.ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if sink.Open() != 0 || len(sink.Images()) != 0 {
		t.Errorf("%d open, %d images", sink.Open(), len(sink.Images()))
	}
}
