package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imagefs/store"
)

type checkOptions struct {
	quick  bool
	quiet  bool
	format string
}

// problem is a problem as JSON.
type problem struct {
	What  string `json:"what"`
	Error string `json:"error"`
}

func newCheckCommand(a *app) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify the store",
		Long: `Verify everything in the store: that names lead to images, that configs hash to
their IDs, that layers are there with all their records, and that the content of
every layer, put together as its tar, hashes to its diff ID. That reads the whole
store; --quick leaves the content out.

One line a problem; the exit code is 1 if there is one. What an interrupted load
or removal left is cleared away first, as with every command.`,
		Example: `  imagefs check
  imagefs check --quick
  imagefs --store /mnt/evidence/docker check --format json`,
		Args:              wants(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return runCheck(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.quick, "quick", false, "do not read the content of files")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no summary if all is well")
	f.StringVar(&o.format, "format", "", "`FORMAT`: 'json' prints one object a problem")
	return cmd
}

func runCheck(ctx context.Context, a *app, o checkOptions) error {
	if o.format != "" && o.format != "json" {
		return usagef("check: there is no format %q; there is 'json'", o.format)
	}
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("check", err)
	}
	defer st.Close()
	c, ok := st.(store.Checker)
	if !ok {
		return during("check", store.Cannot(st, "check anything"))
	}
	problems := 0
	err = c.Check(ctx, !o.quick, func(p store.Problem) {
		problems++
		// What the line says already is left out.
		why := strings.TrimPrefix(sentence(p.Err), p.What+": ")
		why = strings.TrimSuffix(why, ": "+store.ErrCorrupt.Error())
		if o.format == "json" {
			e := json.NewEncoder(a.out)
			e.SetEscapeHTML(false)
			_ = e.Encode(problem{p.What, why})
		} else {
			a.printf("%s: %s\n", oneLine(p.What), why)
		}
		a.flush()
	})
	if err != nil {
		return during("check", err)
	}
	if problems > 0 {
		a.complain("check", fmt.Errorf("%s in the store %s", count(problems, "problem"), strings.Join(roots(st), ", ")))
		return failed
	}
	if !o.quiet && o.format == "" {
		ids, err := st.IDs(ctx)
		if err != nil {
			return during("check", err)
		}
		a.printf("%s: %s, all well\n", strings.Join(roots(st), ", "), count(len(ids), "image"))
	}
	return nil
}

// count is a number of things, in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
