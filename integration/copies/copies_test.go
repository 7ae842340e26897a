package copies

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

// Every kind of source that needs no engine; podman's and containerd's are
// tested beside the writers of their stores.
func TestEverywhere(t *testing.T) {
	images := storetest.Images(storetest.Odd())
	sources := map[string]func(dir string) (store.Store, error){
		"docker": func(dir string) (store.Store, error) {
			s, err := docker.Open(dir, docker.Options{Create: true})
			if err == nil {
				_, err = archive.NewLoader(s, archive.Options{}).Load(context.Background(), struct{ io.Reader }{bytes.NewReader(storetest.Docker(images...).Tar())})
			}
			return s, err
		},
		"docker-archive": func(dir string) (store.Store, error) { return inFile(dir, storetest.Docker(images...).Tar()) },
		"docker-archive, gzip": func(dir string) (store.Store, error) {
			return inFile(dir, storetest.Gzip(storetest.Docker(images...).Tar()))
		},
		"oci-archive, zstd": func(dir string) (store.Store, error) {
			return inFile(dir, storetest.OCI(storetest.Zstd, images...).Tar())
		},
		"oci": func(dir string) (store.Store, error) {
			if err := storetest.OCI(storetest.Gzip, images...).Write(dir); err != nil {
				return nil, err
			}
			return archive.Open(dir, archive.StoreOptions{})
		},
	}
	for name, open := range sources {
		t.Run(name, func(t *testing.T) {
			s, err := open(filepath.Join(t.TempDir(), "source"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			Everywhere(t, s)
		})
	}
}

func inFile(path string, b []byte) (store.Store, error) {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return nil, err
	}
	return archive.Open(path, archive.StoreOptions{})
}
