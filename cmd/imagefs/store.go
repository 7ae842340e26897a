package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"imagefs/store"
)

// dockerRoot is where Docker keeps its store if nothing else was configured.
const dockerRoot = "/var/lib/docker"

// defaultStore is the store of who says nothing.
func defaultStore() string {
	if os.Geteuid() == 0 {
		return "/var/lib/imagefs"
	}
	return xdg("XDG_DATA_HOME", ".local/share")
}

// cacheDir keeps the indexes of layers of other programs' stores.
func cacheDir() string {
	if os.Geteuid() == 0 {
		return "/var/cache/imagefs"
	}
	return xdg("XDG_CACHE_HOME", ".cache")
}

// xdg returns this program's directory by the XDG Base Directory
// Specification, which has relative paths ignored.
func xdg(variable, below string) string {
	if d := os.Getenv(variable); filepath.IsAbs(d) {
		return filepath.Join(d, "imagefs")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/nonexistent"
	}
	return filepath.Join(home, below, "imagefs")
}

// storePath is the store that the user means, and whether it was named.
func (a *app) storePath() (path string, named bool) {
	for _, p := range []string{a.storeFlag, os.Getenv("IMAGEFS_STORE")} {
		if p != "" {
			return p, true
		}
	}
	return defaultStore(), false
}

// openStore opens the store that the user means. The caller closes it.
func (a *app) openStore(o openOptions) (store.Store, error) {
	path, named := a.storePath()
	if o.log == nil {
		o.log = newLog(a.err, slog.LevelWarn, false)
	}
	o.cache = cacheDir()
	st, err := openKind(path, o)
	if errors.Is(err, store.ErrNotFound) {
		return nil, advised{err, noStoreAdvice(named)}
	}
	return st, err
}

func noStoreAdvice(named bool) string {
	advice := "make one with 'imagefs load -i ARCHIVE'"
	if named {
		return advice
	}
	if _, err := os.Stat(filepath.Join(dockerRoot, "image/overlay2")); err == nil || errors.Is(err, fs.ErrPermission) {
		return advice + ", or use Docker's with --store " + dockerRoot
	}
	return advice + ", or name one with --store"
}

// completeImages offers the names of images; those that were given already are left out.
func (a *app) completeImages(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		st, err := a.openStore(openOptions{readOnly: true, log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer st.Close()
		names, err := st.Names(context.Background())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for ref := range names.Tags {
			if strings.HasPrefix(ref, prefix) {
				out = append(out, ref)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
