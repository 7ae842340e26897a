package report

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"imagefs/store"
)

// Dockerfile rebuilds what an image was built from out of its history, as well
// as that goes: which files ADD and COPY took is not recorded, stages of a build
// that were not kept are not either. Its first line says so. Without a history it
// is made from the config.
func Dockerfile(img store.Image) []byte {
	d := dockerfile{shell: "/bin/sh -c"}
	d.line("# Rebuilt from the history of " + string(img.ID()) + ", best effort: what ADD and COPY took is not recorded.")
	d.line("FROM scratch")
	steps := img.Config().History
	for _, h := range steps {
		d.step(h)
	}
	if len(steps) == 0 {
		d.config(parseConfig(img.RawConfig()).Config, len(img.Config().DiffIDs))
	}
	return []byte(d.b.String())
}

type dockerfile struct {
	b     strings.Builder
	shell string // what runs commands at this step
}

func (d *dockerfile) line(s string) { d.b.WriteString(s + "\n") }

func (d *dockerfile) comment(s string) {
	for line := range strings.SplitSeq(s, "\n") {
		d.line("# " + Printable(line))
	}
}

// instructions are those that a history can name.
var instructions = []string{"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK",
	"LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}

const nop = "#(nop)"

// copied is what the classic builder copied; it forgets the space before it.
var copied = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(.*?) *((?:file|dir|multi):[0-9a-f]{64}) in (.*)$`) })

// step writes one step of a history: of the classic builder ("/bin/sh -c
// #(nop)  CMD …", "/bin/sh -c make"), or of BuildKit and most others ("RUN /bin/sh
// -c make # buildkit").
func (d *dockerfile) step(h store.History) {
	s := strings.TrimSpace(h.CreatedBy)
	s = strings.TrimSpace(strings.TrimSuffix(s, "# buildkit"))
	if _, after, ok := strings.Cut(s, nop); ok && strings.HasPrefix(s, d.shell) || ok && strings.HasPrefix(s, "/bin/sh -c") {
		s = strings.TrimSpace(after)
	}
	word, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case s == "":
		what := "a step of which nothing is recorded"
		if h.Comment != "" {
			what += ": " + h.Comment
		}
		d.comment(what)
	case slices.Contains(instructions, strings.ToUpper(word)) && word == strings.ToUpper(word):
		d.instruction(word, rest)
	case strings.HasPrefix(s, "|"), strings.HasPrefix(s, d.shell+" "), strings.HasPrefix(s, "/bin/sh -c "):
		d.run(s)
	case strings.HasPrefix(s, "#"):
		d.comment(strings.TrimSpace(s[1:]))
	default:
		d.comment("made by: " + s)
	}
}

func (d *dockerfile) instruction(word, rest string) {
	switch word {
	case "RUN":
		d.run(rest)
		return
	case "ADD", "COPY":
		if m := copied().FindStringSubmatch(rest); m != nil {
			rest = strings.TrimSpace(m[1]+" "+m[2]) + " " + m[3]
		}
	case "CMD", "ENTRYPOINT":
		if words := quotedWords(strings.TrimPrefix(rest, "[")); strings.HasPrefix(rest, "[") && !json.Valid([]byte(rest)) && len(words) > 0 {
			rest = jsonList(words)
		}
	case "EXPOSE":
		if ports, ok := strings.CutPrefix(rest, "map["); ok {
			rest = strings.ReplaceAll(strings.TrimSuffix(ports, "]"), ":{}", "")
		}
	case "VOLUME", "SHELL":
		list, ok := goList(rest)
		if ok {
			rest = jsonList(list)
		} else {
			_ = json.Unmarshal([]byte(rest), &list)
		}
		if word == "SHELL" && len(list) > 0 {
			d.shell = strings.Join(list, " ")
		}
	case "LABEL", "ENV":
		rest = pairs(rest)
	case "HEALTHCHECK":
		rest = healthcheck(rest)
	}
	d.put(word, rest)
}

// run writes a command that a shell ran, without the shell that runs commands anyway.
func (d *dockerfile) run(s string) {
	if args, ok := strings.CutPrefix(s, "|"); ok {
		// "|2 A=1 B=2 /bin/sh -c make": build arguments.
		count, after, _ := strings.Cut(args, " ")
		if n, err := strconv.Atoi(count); err == nil && n >= 0 {
			if i := strings.Index(" "+after, " "+d.shell+" "); i >= 0 {
				if values := strings.TrimSpace(after[:i]); values != "" {
					d.comment("with the build arguments " + values)
				}
				s = after[i:]
			} else {
				s = after
			}
		}
	}
	for _, shell := range []string{d.shell, "/bin/sh -c"} {
		if command, ok := strings.CutPrefix(s, shell+" "); ok {
			s = command
			break
		}
	}
	d.put("RUN", strings.TrimSpace(s))
}

// put writes an instruction. A line that the builder put together from several
// becomes several again where that changes nothing; line breaks that belong to
// the command make it a here-document.
func (d *dockerfile) put(word, rest string) {
	if strings.Contains(rest, "\n") && (word == "RUN" || word == "COPY" || word == "ADD") && !strings.Contains(rest, "<<") {
		end := "EOF"
		for strings.Contains(rest, end) {
			end += "_"
		}
		d.line(word + " <<" + end)
		for line := range strings.SplitSeq(rest, "\n") {
			d.line(printableTabs(line))
		}
		d.line(end)
		return
	}
	parts := strings.Split(rest, "\n")
	for n := range parts {
		parts[n] = printableTabs(parts[n])
	}
	rest = strings.Join(parts, "\n")
	if word == "RUN" && len(parts) == 1 {
		rest = foldTabs(rest)
	}
	d.line(strings.TrimRight(word+" "+rest, " "))
}

// foldTabs breaks a line before tabs, with which the continued lines of a
// Dockerfile usually begin: a backslash and a line break add nothing to it.
func foldTabs(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\t' && i > 0 && s[i-1] == ' ' {
			after := strings.TrimLeft(s[i:], "\t ")
			if after != "" && after[0] != '#' {
				b.WriteString("\\\n")
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// printableTabs is Printable, but for tabs.
func printableTabs(s string) string {
	parts := strings.Split(s, "\t")
	for n := range parts {
		parts[n] = Printable(parts[n])
	}
	return strings.Join(parts, "\t")
}

// goList reads a list as Go prints it, "[a b]"; a JSON list is none.
func goList(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") || !strings.HasSuffix(s, "]") || json.Valid([]byte(s)) {
		return nil, false
	}
	return strings.Fields(s[1 : len(s)-1]), true
}

func jsonList(list []string) string {
	var quoted []string
	for _, w := range list {
		quoted = append(quoted, strconv.Quote(w))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// pairs quotes values with spaces, whose quotes the history has lost.
func pairs(s string) string {
	if strings.Contains(s, `="`) || strings.Contains(s, "='") || !strings.Contains(s, "=") {
		return s
	}
	var out []string
	for _, w := range strings.Split(s, " ") {
		if key, _, ok := strings.Cut(w, "="); len(out) == 0 || ok && key != "" {
			out = append(out, w)
		} else {
			out[len(out)-1] += " " + w
		}
	}
	for n, w := range out {
		if key, value, _ := strings.Cut(w, "="); strings.ContainsAny(value, " \t\"'") {
			out[n] = key + "=" + strconv.Quote(value)
		}
	}
	return strings.Join(out, " ")
}

// healthcheck reads a check as Go prints its fields: &{["CMD-SHELL" "curl -f x"]
// "30s" "5s" "0s" "0s" '\x03'}, the test, interval, timeout, start period, start
// interval in newer ones, and retries.
func healthcheck(s string) string {
	inner, ok := strings.CutPrefix(s, "&{[")
	list, rest, cut := strings.Cut(inner, "] ")
	if !ok || !cut {
		return s
	}
	test := quotedWords(list)
	if len(test) == 0 {
		return s
	}
	if test[0] == "NONE" {
		return "NONE"
	}
	var out []string
	times := quotedWords(rest)
	for n, flag := range []string{"--interval=", "--timeout=", "--start-period=", "--start-interval="} {
		if n < len(times) && times[n] != "0s" {
			out = append(out, flag+times[n])
		}
	}
	if i := strings.LastIndex(rest, " '"); i >= 0 {
		if r, _, _, err := strconv.UnquoteChar(strings.TrimSuffix(strings.TrimSuffix(rest[i+2:], "}"), "'"), '\''); err == nil && r > 0 {
			out = append(out, fmt.Sprintf("--retries=%d", r))
		}
	}
	if test[0] == "CMD-SHELL" {
		out = append(out, "CMD", strings.Join(test[1:], " "))
	} else {
		out = append(out, "CMD", jsonList(test[1:]))
	}
	return strings.Join(out, " ")
}

// quotedWords returns the Go strings at the beginning of a text.
func quotedWords(s string) []string {
	var out []string
	for {
		s = strings.TrimLeft(s, " ")
		q, err := strconv.QuotedPrefix(s)
		if err != nil || q[0] == '\'' {
			return out
		}
		w, err := strconv.Unquote(q)
		if err != nil {
			return out
		}
		out, s = append(out, w), s[len(q):]
	}
}

// config writes what a config says, for an image without a history.
func (d *dockerfile) config(c *store.ContainerConfig, layers int) {
	for n := range layers {
		d.comment(fmt.Sprintf("layer %d, of which nothing is recorded", n))
	}
	if c == nil {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		d.put("LABEL", k+"="+strconv.Quote(c.Labels[k]))
	}
	for _, e := range c.Env {
		k, v, _ := strings.Cut(e, "=")
		d.put("ENV", k+"="+strconv.Quote(v))
	}
	if len(c.ExposedPorts) > 0 {
		d.put("EXPOSE", strings.Join(slices.Sorted(maps.Keys(c.ExposedPorts)), " "))
	}
	if len(c.Volumes) > 0 {
		d.put("VOLUME", jsonList(slices.Sorted(maps.Keys(c.Volumes))))
	}
	for _, f := range []struct{ word, value string }{{"WORKDIR", c.WorkingDir}, {"USER", c.User}, {"STOPSIGNAL", c.StopSignal}} {
		if f.value != "" {
			d.put(f.word, f.value)
		}
	}
	for _, t := range c.OnBuild {
		d.put("ONBUILD", t)
	}
	if c.Entrypoint != nil {
		d.put("ENTRYPOINT", jsonList(c.Entrypoint))
	}
	if c.Cmd != nil {
		d.put("CMD", jsonList(c.Cmd))
	}
}
