package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"

	"imagefs/store/report"
)

type mountsOptions struct {
	quiet  bool
	format string
}

func newMountsCommand(a *app) *cobra.Command {
	var o mountsOptions
	cmd := &cobra.Command{
		Use:   "mounts",
		Short: "List what imagefs has mounted, where, and from which stores",
		Long: `List the mounts of imagefs that there are, whoever made them, with the stores
that each shows and the process that serves it. Of a mount whose process does
not answer (it is dead, or another user's that is in another network namespace)
the mount table says where the stores are.

Fields for --format: .Mountpoint .Store (names) .Source (paths) .Options .Transport
.PID .State (serving, silent, dead) .Since .Version`,
		Example: `  imagefs mounts
  imagefs mounts -q
  imagefs mounts --format '{{.PID}} {{.Mountpoint}}'
  imagefs mounts --format json`,
		Args: wants(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return during("mounts", runMounts(a, o))
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.quiet, "quiet", "q", false, "only the mountpoints")
	f.StringVar(&o.format, "format", "", "'table', 'table `TEMPLATE`', 'json', or a Go template")
	return cmd
}

// served is one mount and what its process says of it.
type served struct {
	*mountinfo.Info
	life
	pid   int // 0 if none answers
	state string
}

// allMounts returns the mounts of imagefs with what is known of them.
func allMounts() ([]served, error) {
	all, err := ourMounts()
	if err != nil {
		return nil, err
	}
	out := make([]served, len(all))
	var asked sync.WaitGroup
	for i, m := range all {
		asked.Go(func() { out[i] = ask(m) })
	}
	asked.Wait()
	return out, nil
}

func ask(m *mountinfo.Info) served {
	one := served{Info: m, state: "silent"}
	var ok bool
	if one.life, one.pid, ok = askLife(m.Major, m.Minor, mountUser(m)); ok {
		one.state = "serving"
	} else if one.pid == 0 && isDead(m.Mountpoint) {
		// To ask a process that is there and does not answer is to wait for it.
		one.state = "dead"
	}
	return one
}

// mountUser is the user that made a mount, as the kernel says it.
func mountUser(m *mountinfo.Info) uint32 {
	for w := range strings.SplitSeq(m.VFSOptions, ",") {
		if text, ok := strings.CutPrefix(w, "user_id="); ok {
			if n, err := strconv.ParseUint(text, 10, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return 0
}

// names are what its stores are called.
func (m served) names() (out []string) {
	for _, s := range m.Stores {
		if s.Name != "" {
			out = append(out, s.Name)
		}
	}
	return out
}

// called tells whether a user may mean this mount by a word that is no
// mountpoint: a store's name or path, or all paths as the mount table has them.
func (m served) called(word string) bool {
	abs := absolute(word)
	if m.Source == word {
		return true
	}
	for _, s := range m.Stores {
		if s.Name == word || s.Path == abs || s.Kind+":"+s.Path == word {
			return true
		}
	}
	for p := range strings.SplitSeq(m.Source, ",") {
		if filepath.IsAbs(p) && p == abs {
			return true
		}
	}
	return false
}

// mountRow is a mount as templates and JSON have it.
type mountRow struct {
	Mountpoint string
	Store      string
	Source     string
	Options    string
	Transport  string
	PID        string
	State      string
	Since      string
	Version    string
}

var mountHeader = map[string]string{
	"Mountpoint": "MOUNTPOINT", "Store": "STORE", "Source": "SOURCE", "Options": "OPTIONS", "Transport": "TRANSPORT",
	"PID": "PID", "State": "STATE", "Since": "SINCE", "Version": "VERSION",
}

func runMounts(a *app, o mountsOptions) error {
	all, err := allMounts()
	if err != nil {
		return err
	}
	if o.quiet && o.format == "" {
		o.format = "{{.Mountpoint}}"
	}
	rows := make([]mountRow, len(all))
	for i, m := range all {
		r := mountRow{
			Mountpoint: m.Mountpoint, Store: strings.Join(m.names(), ","), Source: m.Source, Options: m.Options,
			Transport: m.Transport, State: m.state, Version: m.Version,
		}
		if m.pid != 0 {
			r.PID, r.Since = fmt.Sprint(m.pid), m.Since.Format(time.RFC3339)
		}
		if report.IsTable(o.format) {
			for _, f := range []*string{&r.Mountpoint, &r.Store, &r.Source, &r.Transport, &r.Version} {
				*f = report.Printable(*f)
			}
		}
		rows[i] = r
	}
	return report.WriteRows(a.out, o.format, "{{.Mountpoint}}\t{{.Store}}\t{{.Source}}\t{{.Options}}\t{{.Transport}}\t{{.PID}}\t{{.State}}", mountHeader, rows)
}
