package containerd

import (
	"archive/tar"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"imagefs/store"
	"imagefs/store/storetest"
)

// fakeDocker is a Docker daemon that has its images in a fakeRoot, with its
// containerd: the test itself, which has the database open and listens. It does
// what it is asked to names as Docker does, and notes it.
type fakeDocker struct {
	t          *testing.T
	root       *fakeRoot
	host       string
	db         *os.File // of its containerd
	info       map[string]any
	containers string                              // what it says of them
	asked      []string                            // changes, as METHOD path
	load       func(members map[string][]byte) any // what to say to an archive; nil: it is taken in
}

// living makes a store that a daemon has its images in: app:1 and team/app:1 of
// one image, only:1 of another, multi:1 of two platforms, and one of another namespace.
func living(t *testing.T, spaces ...string) (*Store, *fakeDocker) {
	t.Helper()
	r := newRoot(t)
	shared := app("app:1", "linux/amd64", "x")
	shared.Names = append(shared.Names, "team/app:1")
	r.image("moby", shared, storetest.Plain)
	r.unpack("moby", shared)
	r.image("moby", app("only:1", "linux/amd64", "y"), storetest.Plain)
	amd, arm := app("", "linux/amd64", "multi"), app("", "linux/arm64", "multi")
	r.name("moby", "docker.io/library/multi:1", r.layout.SubIndex(
		r.layout.Manifest(amd, storetest.Plain).For(amd.Platform), r.layout.Manifest(arm, storetest.Plain).For(arm.Platform)))
	for _, space := range spaces {
		r.image(space, app("foreign:1", "linux/amd64", space), storetest.Plain)
	}
	s := open(t, r.write(), Options{})
	d := &fakeDocker{t: t, root: r, containers: "[]"}
	d.host = storetest.ServeSocket(t, d)
	var err error
	if d.db, err = os.Open(filepath.Join(r.dir, metaFile)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.db.Close() })
	d.info = map[string]any{
		"ID": "i", "Name": "n", "Driver": "overlayfs", "DockerRootDir": "/var/lib/docker", "DriverStatus": [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		"Containerd": map[string]any{"Address": strings.TrimPrefix(d.host, "unix://"), "Namespaces": map[string]string{"Containers": "moby"}},
	}
	s.opts.Hosts = []string{d.host}
	return s, d
}

// update changes the image records.
func (d *fakeDocker) update(change func(images *bbolt.Bucket) error) {
	db := d.root.database(metaFile)
	err := db.Update(func(tx *bbolt.Tx) error { return change(at(tx, version, "moby", "images")) })
	if err = errors.Join(err, db.Close()); err != nil {
		d.t.Error(err)
	}
}

// name lets a name lead to a target.
func name(images *bbolt.Bucket, name, target string) error {
	b, err := images.CreateBucketIfNotExists([]byte(name))
	if err == nil {
		b, err = b.CreateBucketIfNotExists([]byte("target"))
	}
	if err != nil {
		return err
	}
	return put(b, "digest", []byte(target), "mediatype", []byte(storetest.TypeManifest), "size", binary.AppendVarint(nil, 1))
}

// targets returns what each name leads to.
func targets(images *bbolt.Bucket) map[string]string {
	out := map[string]string{}
	_ = images.ForEachBucket(func(k []byte) error {
		out[string(k)] = string(images.Bucket(k).Bucket([]byte("target")).Get([]byte("digest")))
		return nil
	})
	return out
}

func (d *fakeDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/info":
		_ = json.NewEncoder(w).Encode(d.info)
		return
	case "/containers/json":
		fmt.Fprint(w, d.containers)
		return
	}
	asked, _ := url.PathUnescape(r.Method + " " + r.URL.String())
	d.asked = append(d.asked, asked)
	image := strings.TrimPrefix(r.URL.Path, "/images/")
	switch {
	case image == "load":
		members := map[string][]byte{}
		for in := tar.NewReader(r.Body); ; {
			h, err := in.Next()
			if err != nil {
				break
			}
			members[h.Name], _ = io.ReadAll(in)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if d.load != nil {
			_ = json.NewEncoder(w).Encode(d.load(members))
			return
		}
		d.take(members)
	case r.Method == http.MethodPost:
		full, _ := store.Canonical(r.URL.Query().Get("repo") + ":" + r.URL.Query().Get("tag"))
		d.update(func(images *bbolt.Bucket) error { return give(images, full, strings.TrimSuffix(image, "/tag")) })
	default:
		var out []map[string]string
		d.update(func(images *bbolt.Bucket) error {
			all := targets(images)
			target, named := all[image]
			if !named {
				target = image
			}
			others := 0
			for n, t := range all {
				switch {
				case t != target:
				case named && n != image:
					others++
				default:
					out = append(out, map[string]string{"Untagged": strings.TrimPrefix(strings.TrimPrefix(n, "docker.io/"), "library/")})
					if err := images.DeleteBucket([]byte(n)); err != nil {
						return err
					}
				}
			}
			if others == 0 {
				out = append(out, map[string]string{"Deleted": target})
			}
			return nil
		})
		_ = json.NewEncoder(w).Encode(out)
	}
}

// give gives a name to a target. What loses it, and has no other, is kept without one.
func give(images *bbolt.Bucket, full, target string) error {
	all := targets(images)
	if old := all[full]; old != "" && old != target {
		delete(all, full)
		if !slices.Contains(slices.Collect(maps.Values(all)), old) {
			if err := name(images, dangling+"@"+old, old); err != nil {
				return err
			}
		}
	}
	if all[dangling+"@"+target] != "" {
		if err := images.DeleteBucket([]byte(dangling + "@" + target)); err != nil {
			return err
		}
	}
	return name(images, full, target)
}

// take takes an archive of docker save's form in.
func (d *fakeDocker) take(members map[string][]byte) {
	var saved []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(members["manifest.json"], &saved); err != nil {
		d.t.Error(err)
	}
	for _, i := range saved {
		m := storetest.Manifest{SchemaVersion: 2, MediaType: storetest.TypeManifest, Config: d.root.layout.Blob(storetest.TypeConfig, members[i.Config])}
		for _, l := range i.Layers {
			if members[l] == nil {
				d.t.Errorf("the layer %s is not in the archive", l)
			}
			m.Layers = append(m.Layers, d.root.layout.Blob(storetest.TypeLayer, members[l]))
		}
		target := d.root.layout.JSON(storetest.TypeManifest, m)
		d.root.images = nil // the others are there
		d.root.write()
		d.update(func(images *bbolt.Bucket) error {
			if len(i.RepoTags) == 0 {
				return name(images, dangling+"@"+string(target.Digest), string(target.Digest))
			}
			for _, n := range i.RepoTags {
				full, _ := store.Canonical(n)
				if err := give(images, full, string(target.Digest)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// was checks what the daemon was asked, and forgets it.
func (d *fakeDocker) was(what string, want ...string) {
	d.t.Helper()
	if !slices.Equal(d.asked, want) {
		d.t.Errorf("%s: the daemon was asked\n\t%q, want\n\t%q", what, d.asked, want)
	}
	d.asked = nil
}

// known returns the digest by which the daemon knows an image.
func (d *fakeDocker) known(full string) (target string) {
	d.update(func(images *bbolt.Bucket) error { target = targets(images)[full]; return nil })
	return target
}
