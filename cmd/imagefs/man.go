package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Manual pages are made of the same texts as the help of the commands. Package
// cobra/doc would have them go through Markdown, which takes <repo> for HTML
// and has no use for columns; and it would make the program larger.

func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages",
		Long: `Write a manual page for each command to DIR/man1 and for each topic to DIR/man7.
Their date is SOURCE_DATE_EPOCH, else that of the source's last commit.`,
		Example: `  imagefs man /usr/local/share/man`,
		Args:    wants(1, 1),
		Hidden:  true, // of use when imagefs is installed
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := writeManual(cmd.Root(), args[0]); err != nil {
				return during("man", err)
			}
			return nil
		},
	}
}

func writeManual(root *cobra.Command, dir string) error {
	root.InitDefaultHelpFlag()
	date := manualDate()
	pages := map[string]string{"man1/imagefs.1": manualPage(root, date)}
	for _, c := range root.Commands() {
		if c.Hidden {
			continue
		}
		c.InitDefaultHelpFlag()
		s := section(c)
		pages[fmt.Sprintf("man%d/imagefs-%s.%d", s, c.Name(), s)] = manualPage(c, date)
	}
	for name, text := range pages {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// section is that of the manual: commands are in the first, topics in the seventh.
func section(c *cobra.Command) int {
	if c.IsAdditionalHelpTopicCommand() {
		return 7
	}
	return 1
}

// manualDate is the same for the same source.
func manualDate() string {
	if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(n, 0).UTC().Format(time.DateOnly)
	}
	info, _ := debug.ReadBuildInfo()
	for i := 0; info != nil && i < len(info.Settings); i++ {
		if s := info.Settings[i]; s.Key == "vcs.time" && len(s.Value) >= len(time.DateOnly) {
			return s.Value[:len(time.DateOnly)]
		}
	}
	return "1970-01-01"
}

// manualPage is the page of a command or a topic.
func manualPage(c *cobra.Command, date string) string {
	m := &manual{}
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	m.line(`.TH "%s" "%d" "%s" "imagefs %s" "imagefs"`, roff(strings.ToUpper(name)), section(c), date, roff(versionNumber()))
	m.line(".SH NAME")
	m.line(`%s \- %s`, roff(name), roff(c.Short))
	if section(c) == 7 {
		m.line(".SH DESCRIPTION")
		m.verbatim(c.Long)
		m.seeAlso(c)
		return m.String()
	}
	m.line(".SH SYNOPSIS")
	use := strings.TrimPrefix(c.UseLine(), c.CommandPath())
	if !c.HasParent() {
		use = " COMMAND [flags]"
	}
	m.line(`\fB%s\fR%s`, roff(c.CommandPath()), roff(use))
	m.line(".SH DESCRIPTION")
	m.text(c.Long)
	if !c.HasParent() {
		m.commands(c)
	}
	m.flags("OPTIONS", c.NonInheritedFlags())
	m.flags("OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	if c.Example != "" {
		m.line(".SH EXAMPLES")
		m.verbatim(c.Example)
	}
	m.line(".SH EXIT STATUS")
	m.verbatim(strings.TrimPrefix(topicExit, "Exit codes\n\n"))
	if !c.HasParent() {
		m.environment()
	}
	m.seeAlso(c)
	return m.String()
}

// manual is a page in the making.
type manual struct{ strings.Builder }

func (m *manual) line(format string, args ...any) { fmt.Fprintf(&m.Builder, format+"\n", args...) }

// roff is text in which nothing is a command or an escape.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// text writes paragraphs; those that are set in are columns, and stay as they are.
func (m *manual) text(s string) {
	for n, p := range strings.Split(strings.Trim(s, "\n"), "\n\n") {
		if n > 0 {
			m.line(".PP")
		}
		if strings.HasPrefix(p, " ") {
			m.verbatim(p)
			continue
		}
		for line := range strings.Lines(p) {
			m.line("%s", roff(strings.TrimSpace(line)))
		}
	}
}

// verbatim writes lines as they are.
func (m *manual) verbatim(s string) {
	m.line(".nf")
	for line := range strings.Lines(strings.Trim(s, "\n")) {
		if line = strings.TrimRight(line, " \n"); line == "" {
			m.line(".sp")
		} else {
			m.line("%s", roff(line))
		}
	}
	m.line(".fi")
}

func (m *manual) commands(root *cobra.Command) {
	m.line(".SH COMMANDS")
	for _, g := range root.Groups() {
		for _, c := range root.Commands() {
			if c.GroupID == g.ID && c.IsAvailableCommand() {
				m.line(".TP\n\\fBimagefs\\-%s\\fR(1)\n%s", roff(c.Name()), roff(c.Short))
			}
		}
	}
}

func (m *manual) flags(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	m.line(".SH %s", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		m.line(".TP")
		head := `\fB\-\-` + roff(f.Name) + `\fR`
		if f.Shorthand != "" {
			head = `\fB\-` + f.Shorthand + `\fR, ` + head
		}
		if value != "" {
			head += ` \fI` + roff(value) + `\fR`
		}
		m.line("%s\n%s", head, roff(usage))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			m.line("(default %s)", roff(f.DefValue))
		}
	})
}

func (m *manual) environment() {
	m.line(".SH ENVIRONMENT")
	for _, e := range [][2]string{
		{"IMAGEFS_STORE", "the stores, one a line, where there is no --store"},
		{"XDG_DATA_HOME", "where an ordinary user's store is made, below imagefs; else ~/.local/share"},
		{"XDG_CACHE_HOME", "where an ordinary user's cache is, below imagefs; else ~/.cache"},
		{"IMAGEFS_DOCKER_HOST", "where a running Docker is asked, where there is no --docker-host: unix:///PATH or tcp://HOST:PORT"},
		{"DOCKER_HOST", "the same, where there is no IMAGEFS_DOCKER_HOST either; it counts only if the store is that Docker's"},
		{"XDG_RUNTIME_DIR", "where the socket of an ordinary user's Docker is looked for, docker.sock"},
		{"TMPDIR", "where layers wait for a running Docker, and what an archive needs on its way to standard output; else /tmp"},
		{"NO_COLOR", "if it is set, --color auto colours nothing"},
		{"IMAGEFS_DEBUG", "if it is set, a bug shows where it is"},
	} {
		m.line(".TP\n\\fB%s\\fR\n%s", roff(e[0]), roff(e[1]))
	}
}

func (m *manual) seeAlso(c *cobra.Command) {
	m.line(".SH SEE ALSO")
	var all []string
	if c.HasParent() {
		all = append(all, `\fBimagefs\fR(1)`)
	}
	for _, t := range c.Root().Commands() {
		if t != c && section(t) == 7 {
			all = append(all, `\fBimagefs\-`+roff(t.Name())+`\fR(7)`)
		}
	}
	m.line("%s", strings.Join(all, ",\n"))
}
