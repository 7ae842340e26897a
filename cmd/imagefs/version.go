package main

import (
	"encoding/json"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"imagefs/store/report"
)

// version is set by the linker in a release.
var version = ""

// build is what is known of this program.
type build struct {
	Version   string
	GitCommit string
	GoVersion string
	Os        string
	Arch      string
	Kinds     []string // of stores
}

func thisBuild() build {
	b := build{Version: version, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := info.Main.Version; b.Version == "" && v != "" && v != "(devel)" {
			b.Version = v
		}
		modified := ""
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.GitCommit = s.Value[:min(12, len(s.Value))]
			case "vcs.modified":
				if s.Value == "true" {
					modified = "-dirty"
				}
			}
		}
		if b.GitCommit != "" {
			b.GitCommit += modified
		}
	}
	if b.Version == "" {
		b.Version = "development"
	}
	for _, k := range kinds {
		b.Kinds = append(b.Kinds, k.name)
	}
	return b
}

func versionNumber() string { return thisBuild().Version }

func newVersionCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Long: `Show the version of this program.

Fields for --format: .Version .GitCommit .GoVersion .Os .Arch .Kinds`,
		Example: `  imagefs version
  imagefs version --format '{{.Version}}'
  imagefs version --format json`,
		Args:              wants(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return runVersion(a, format) },
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "'json', or a Go `TEMPLATE`")
	return cmd
}

func runVersion(a *app, format string) error {
	b := thisBuild()
	switch format {
	case "":
		a.printf("imagefs version %s", b.Version)
		if b.GitCommit != "" {
			a.printf(", commit %s", b.GitCommit)
		}
		a.printf(", %s %s/%s\n", b.GoVersion, b.Os, b.Arch)
		return nil
	case "json":
		return json.NewEncoder(a.out).Encode(b)
	}
	if err := report.WriteTemplate(a.out, format, b); err != nil {
		return during("version", err)
	}
	return nil
}
