package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every command and topic has a page, with what a page is to have, in which no
// text is taken for a command of roff; the same source gives the same pages.
func TestManual(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	root := newRootCommand(newApp(nil, &bytes.Buffer{}, &bytes.Buffer{}))
	dir, again := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, again} {
		if err := writeManual(root, d); err != nil {
			t.Fatal(err)
		}
	}
	macro := regexp.MustCompile(`^\.(TH|SH|TP|PP|nf|fi|sp)( |$)`)
	pages := 0
	for _, c := range append(root.Commands(), root) {
		if c.Hidden {
			continue
		}
		name := "man1/" + strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		wants := []string{".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH EXAMPLES", ".SH EXIT STATUS", `  125   imagefs itself failed`, `\fB\-\-store\fR \fISTORE\fR`, `2023\-11\-14`}
		if section(c) == 7 {
			name = "man7/imagefs-" + c.Name() + ".7"
			wants = []string{".SH NAME", ".SH DESCRIPTION", `\fBimagefs\fR(1)`}
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		pages++
		if b2, _ := os.ReadFile(filepath.Join(again, name)); !bytes.Equal(b, b2) {
			t.Errorf("%s is another the second time", name)
		}
		for _, w := range wants {
			if w = strings.ReplaceAll(w, `2023\-11\-14`, "2023-11-14"); !strings.Contains(string(b), w) {
				t.Errorf("%s: %q is missing", name, w)
			}
		}
		for line := range strings.Lines(string(b)) {
			if (line[0] == '.' || line[0] == '\'') && !macro.MatchString(strings.TrimSpace(line)) {
				t.Errorf("%s: %q is no command", name, line)
			}
		}
	}
	if tree, _ := os.ReadFile(filepath.Join(dir, "man7/imagefs-tree.7")); !strings.Contains(string(tree), "images/<repo>/<tag>    a link") {
		t.Error("the topic tree has lost something")
	}
	if pages < 20 {
		t.Errorf("only %d pages", pages)
	}
}

// Every environment variable that the README names is in the manual.
func TestManualEnvironment(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var m manual
	m.environment()
	found := 0
	for _, word := range regexp.MustCompile("`\\$?([A-Z]+_[A-Z_]+|TMPDIR)\\b").FindAllStringSubmatch(string(readme), -1) {
		name := word[1]
		if name == "IMAGEFS_MOUNT" || strings.HasPrefix(name, "CAP_") { // a field of the journal; capabilities
			continue
		}
		if found++; !strings.Contains(m.String(), `\fB`+name+`\fR`) {
			t.Errorf("%s is missing", name)
		}
	}
	if found < 8 {
		t.Errorf("the README names only %d", found)
	}
}

// Text is text: roff sees no command and no escape in it.
func TestRoff(t *testing.T) {
	for in, want := range map[string]string{
		`a\nb`: `a\enb`, ".TH x": `\&.TH x`, "'br": `\&'br`, "--as": `\-\-as`, `say "x"`: `say \(dqx\(dq`,
	} {
		if got := roff(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Help teaches: every command has an example that begins with a command line.
func TestExamples(t *testing.T) {
	root := newRootCommand(newApp(nil, &bytes.Buffer{}, &bytes.Buffer{}))
	for _, c := range append(root.Commands(), root) {
		if section(c) == 7 {
			continue
		}
		if !strings.Contains(c.Example, "imagefs") || c.Long == "" || c.Short == "" {
			t.Errorf("%s has no example, or does not tell what it is: %q", c.CommandPath(), c.Example)
		}
	}
}
