// Package change applies Dockerfile instructions to an image's configuration,
// as `docker import --change` does. It is pure: text in, configuration out.
//
// # Decisions
//
//   - The words of an instruction, their quotes and variables are those of
//     BuildKit's own lexer (package shell, which needs nothing else); what an
//     instruction takes is read here. BuildKit's whole parser would bring
//     protobuf, and a quarter more to the size of the program.
//   - All instructions are one text, one a line, as a daemon takes them: a line
//     that ends with a backslash goes on with the next, lines with # are
//     comments, a variable of ENV is known to those that follow.
//   - STOPSIGNAL is taken too: daemons differ in that.
package change

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"imagefs/store"
)

// Instructions lists those that can be applied, for help texts.
const Instructions = "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"

// maxText bounds all instructions together, and each value, in bytes.
const maxText = 1 << 20

// state is what has been made of the instructions so far.
type state struct {
	c      *store.ContainerConfig
	lex    *shell.Lex
	vars   *environ
	cmdSet bool // a CMD was there: an ENTRYPOINT does not clear it
}

// instruction is one, taken apart.
type instruction struct {
	line  string   // all of it, trimmed
	name  string   // upper case
	flags []string // words at the beginning that start with "--"
	rest  string   // trimmed
}

// handlers carry out instructions; those for which flags is false take none.
var handlers = map[string]struct {
	flags bool
	apply func(*state, instruction) error
}{
	"CMD":         {false, (*state).cmd},
	"ENTRYPOINT":  {false, (*state).entrypoint},
	"ENV":         {false, (*state).env},
	"EXPOSE":      {false, (*state).expose},
	"HEALTHCHECK": {true, (*state).healthcheck},
	"LABEL":       {false, (*state).label},
	"ONBUILD":     {false, (*state).onbuild},
	"STOPSIGNAL":  {false, (*state).stopSignal},
	"USER":        {false, (*state).user},
	"VOLUME":      {false, (*state).volume},
	"WORKDIR":     {false, (*state).workdir},
}

// Apply changes a configuration as instructions say, in order. store.ErrInvalid,
// wrapped, with the instruction, for what is none or cannot be applied; c is
// then of no use.
func Apply(c *store.ContainerConfig, instructions []string) error {
	s := &state{c: c, lex: shell.NewLex('\\'), vars: newEnviron(c.Env)}
	n := 0
	for _, text := range instructions {
		if n += len(text); n > maxText {
			return fmt.Errorf("instructions of more than %d bytes: %w", maxText, store.ErrTooLarge)
		}
	}
	lines := joined(instructions)
	if len(lines) == 0 && len(instructions) > 0 {
		return fmt.Errorf("no instruction in %.100q; want %s: %w", strings.Join(instructions, "\n"), Instructions, store.ErrInvalid)
	}
	for _, l := range lines {
		if err := s.apply(l); err != nil {
			return err
		}
	}
	return nil
}

// joined returns the instructions of a text, one a line, without comments.
func joined(instructions []string) []string {
	var out []string
	open := false // the last line goes on
	for l := range strings.SplitSeq(strings.Join(instructions, "\n"), "\n") {
		bare := strings.TrimSpace(l)
		if bare == "" || bare[0] == '#' {
			continue
		}
		text, more := strings.CutSuffix(strings.TrimRight(l, " \t\r"), `\`)
		if !more {
			text = l
		}
		if open {
			out[len(out)-1] += text
		} else {
			out = append(out, strings.TrimLeft(text, " \t\r"))
		}
		open = more
	}
	return slices.DeleteFunc(out, func(l string) bool { return strings.TrimSpace(l) == "" })
}

func (s *state) apply(line string) error {
	in, err := split(line)
	if err == nil {
		h, ok := handlers[in.name]
		switch {
		case !ok:
			err = fmt.Errorf("there is no such change; want one of %s", Instructions)
		case len(in.flags) > 0 && !h.flags:
			err = fmt.Errorf("%s has no flag %s", in.name, in.flags[0])
		default:
			err = h.apply(s, in)
		}
	}
	if err != nil {
		return fmt.Errorf("change %.200q: %w: %w", strings.TrimSpace(line), err, store.ErrInvalid)
	}
	return nil
}

// expand replaces variables and takes quotes away.
func (s *state) expand(word string) (string, error) {
	out, _, err := s.lex.ProcessWord(word, s.vars)
	if s.vars.left < 0 {
		return "", fmt.Errorf("variables of more than %d bytes altogether", store.MaxConfigSize)
	}
	if len(out) > maxText {
		return "", fmt.Errorf("a value of more than %d bytes", maxText)
	}
	return out, err
}
