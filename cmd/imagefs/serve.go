package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"imagefs/cmd/imagefs/detach"
	"imagefs/fusefs"
	"imagefs/store"
	"imagefs/store/archive"
)

// busyGrace is how long a signal waits for those who use the tree before it is
// unmounted under their hands: what they have open stays open.
const busyGrace = 3 * time.Second

// serve mounts the store at dir and returns when it is unmounted again. Who waits
// for the tree in another process is told when it is ready.
func serve(ctx context.Context, a *app, o mountOptions, dir string) error {
	collectRarely()
	log, logReady, closeLog, err := mountLog(a, o, dir)
	if err != nil {
		return err
	}
	defer closeLog()
	began := time.Now()
	st, err := openMountStore(a, o, dir, log)
	if err != nil {
		return err
	}
	opts := fusefs.Options{
		Source: source(st), AllowOther: o.allowOther, ReadOnly: o.readOnly, Passthrough: o.passthrough, ListOrigin: o.listOrigin,
		Suid: o.suid, Dev: o.dev, NoExec: o.noexec, Debug: o.debug, Log: log,
		Poll: true, Version: versionNumber(), Kind: cmp.Or(a.kind, kinds[0].name),
		Transport: fusefs.Transport(o.transport),
	}
	if dst, ok := st.(store.Ingester); ok && !o.readOnly {
		l := archive.NewLoader(dst, archive.Options{Log: log})
		opts.Loader, opts.Importer = l, l
	}
	a.serving.Store(true)
	srv, err := fusefs.Mount(ctx, dir, st, opts)
	if err != nil {
		if !errors.Is(err, fusefs.ErrServing) {
			st.Close()
		}
		return err
	}
	announceLife(dir, lifeOf(a, st, srv, o))
	unmounted := make(chan struct{})
	go func() {
		srv.Wait() // who does not, on a second signal, leaves the store open: it is still used
		st.Close()
		close(unmounted)
	}()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+oneLine("Serving "+opts.Source+" at "+dir))
	logReady()
	detach.Ready()
	log.Info("mounted", "at", dir, "store", opts.Source, "transport", srv.Transport(), "read_only", o.readOnly)
	defer log.Info("unmounted", "at", dir)
	// Later, since it collects: whoever waited for the tree is looking into it now.
	defer time.AfterFunc(settled, collectOften).Stop()
	defer tendCache(cacheDir(), began, settled, log)()
	select {
	case <-unmounted:
		return nil
	case <-ctx.Done():
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping+"\nSTATUS=Unmounting")
	log.Info("unmounting", "at", dir, "signal", a.caught)
	return leave(srv, log, unmounted, a.signals)
}

// leave unmounts after a signal: at once, or lazily if it stays in use. A second signal does not wait.
func leave(srv *fusefs.Server, log *slog.Logger, unmounted <-chan struct{}, again <-chan os.Signal) error {
	deadline := time.After(busyGrace)
	srv.Leave()
	for {
		err := srv.Unmount(false)
		if err == nil {
			break
		}
		select {
		case <-unmounted:
			return nil
		default:
		}
		if errors.Is(err, unix.EINVAL) {
			break // somebody has unmounted it lazily
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
			continue
		case <-again:
			return srv.Unmount(true)
		case <-deadline:
		}
		log.Warn("the tree is in use; it is unmounted as soon as nobody uses it any more")
		if err := srv.Unmount(true); err != nil {
			return err
		}
		break
	}
	select {
	case <-unmounted:
	case <-again:
	}
	return nil
}

// maxSource bounds what the mount table names as the device, in bytes.
const maxSource = 1000

// source is what the mount table names as the device: where the stores are.
func source(st store.Store) string {
	if s := strings.Join(roots(st), ","); s != "" && len(s) <= maxSource {
		return s
	}
	return "imagefs"
}
