package change

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// blanks are what stands between the words of a line.
const blanks = " \t\v\f\r"

// cut splits a line at its first blanks.
func cut(line string) (first, rest string) {
	i := strings.IndexAny(line, blanks)
	if i < 0 {
		return line, ""
	}
	return line[:i], strings.TrimLeft(line[i:], blanks)
}

// split takes an instruction apart.
func split(line string) (instruction, error) {
	line = strings.TrimSpace(line)
	name, rest := cut(line)
	in := instruction{line: line, name: strings.ToUpper(name)}
	for strings.HasPrefix(rest, "--") {
		word := words(rest)[0]
		rest = strings.TrimSpace(rest[len(word):])
		if word == "--" {
			break
		}
		in.flags = append(in.flags, unquote(word))
	}
	in.rest = strings.TrimSpace(rest)
	return in, nil
}

// unquote takes the quotes and backslashes of a flag away.
func unquote(word string) string {
	var b strings.Builder
	quote := rune(0)
	escaped := false
	for _, c := range word {
		switch {
		case escaped:
			escaped = false
			b.WriteRune(c)
		case c == '\\':
			escaped = true
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// words splits at blanks that are neither quoted nor escaped. The words keep
// their quotes.
func words(s string) []string {
	var out []string
	quote := rune(0)
	start := -1 // of a word, -1 between words
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case start < 0 && unicode.IsSpace(c):
			i += n
			continue
		case start < 0:
			start = i
		}
		switch {
		case c == '\\' && quote != '\'' && i+n < len(s):
			_, next := utf8.DecodeRuneInString(s[i+n:])
			n += next
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case unicode.IsSpace(c):
			out = append(out, s[start:i])
			start = -1
		}
		i += n
	}
	if start >= 0 {
		out = append(out, s[start:])
	}
	return out
}

// pair is a name with a value.
type pair struct{ name, value string }

// pairs reads "name=value …", or "name value" of old, and replaces variables.
func (s *state) pairs(in instruction) ([]pair, error) {
	list := words(in.rest)
	if len(list) == 0 {
		return nil, fmt.Errorf("%s needs name=value", in.name)
	}
	var out []pair
	if !strings.Contains(list[0], "=") {
		name, value := cut(in.rest)
		if value == "" {
			return nil, fmt.Errorf("%s needs a name and a value", in.name)
		}
		out = []pair{{name, value}}
	} else {
		for _, w := range list {
			name, value, ok := strings.Cut(w, "=")
			if !ok {
				return nil, fmt.Errorf("no = in %q", w)
			}
			out = append(out, pair{name, value})
		}
	}
	for i, p := range out {
		name, err := s.expand(p.name)
		if err != nil {
			return nil, err
		}
		value, err := s.expand(p.value)
		if err != nil {
			return nil, err
		}
		if p.name == "" {
			return nil, fmt.Errorf("a name of %s is empty", in.name)
		}
		out[i] = pair{name, value}
	}
	return out, nil
}

var errNotStrings = errors.New("a list in JSON is of strings only")

// list reads a JSON list of strings; ok is false for what is no JSON list.
func list(s string) (out []string, ok bool, err error) {
	var any []any
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &any) != nil {
		return nil, false, nil
	}
	out = make([]string, 0, len(any))
	for _, v := range any {
		word, ok := v.(string)
		if !ok {
			return nil, false, errNotStrings
		}
		out = append(out, word)
	}
	return out, true, nil
}

// one returns the only argument of an instruction, with variables replaced.
func (s *state) one(in instruction) (string, error) {
	if in.rest == "" {
		return "", fmt.Errorf("%s needs one argument", in.name)
	}
	return s.expand(in.rest)
}
