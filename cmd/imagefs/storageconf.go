package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
)

// maxStorageConf bounds podman's configuration, in bytes.
const maxStorageConf = 1 << 20

// storageConf is what is of use here of containers-storage.conf(5).
type storageConf struct {
	Storage struct {
		GraphRoot string `toml:"graphroot"`
		Options   struct {
			Additional []string `toml:"additionalimagestores"`
		} `toml:"options"`
	} `toml:"storage"`
}

// additionalStores are the additional image stores that this machine's
// configuration gives to the storage at root; none if it is about another one,
// as for the storage of another machine.
func additionalStores(root string, log *slog.Logger) []string {
	path := storageConfPath()
	if path == "" {
		return nil
	}
	conf, err := readStorageConf(path)
	if err != nil {
		log.Warn("additional image stores are not shown", "err", err)
		return nil
	}
	graph := conf.Storage.GraphRoot
	if graph == "" {
		graph = systemStorage
	}
	if !sameFile(graph, root) {
		return nil
	}
	var out []string
	for _, dir := range conf.Storage.Options.Additional {
		if filepath.IsAbs(dir) {
			out = append(out, dir)
		}
	}
	return out
}

// systemStorage is where podman keeps root's images if nothing else was configured.
const systemStorage = "/var/lib/containers/storage"

// storageConfPath is the file that podman would read, "" if there is none.
func storageConfPath() string {
	paths := []string{os.Getenv("CONTAINERS_STORAGE_CONF")}
	if dir, err := os.UserConfigDir(); err == nil && !isRoot() {
		paths = append(paths, filepath.Join(dir, "containers/storage.conf"))
	}
	for _, p := range append(paths, "/etc/containers/storage.conf", "/usr/share/containers/storage.conf") {
		if _, err := os.Stat(p); p != "" && err == nil {
			return p
		}
	}
	return ""
}

func readStorageConf(path string) (c storageConf, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStorageConf))
	if err == nil {
		err = toml.Unmarshal(b, &c)
	}
	if err != nil {
		err = &os.PathError{Op: "read", Path: path, Err: err}
	}
	return c, err
}
