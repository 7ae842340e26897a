package ctl

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"

	"imagefs/store"
)

func TestWords(t *testing.T) {
	for in, want := range map[string][]string{
		"":                            nil,
		"  ":                          nil,
		"a:1 b:2":                     {"a:1", "b:2"},
		" a:1\t b:2 ":                 {"a:1", "b:2"},
		`"/my root.tar" me/app:v1`:    {"/my root.tar", "me/app:v1"},
		`'/my root.tar' "me/app:v1"`:  {"/my root.tar", "me/app:v1"},
		`'/it'\''s "here".tar' x`:     {`/it's "here".tar`, "x"},
		`"/it's \"here\".tar"`:        {`/it's "here".tar`},
		"\"\\\\ \\$ \\` \\n $x `y`\"": {"\\ $ ` \\n $x `y`"},
		`'\ \" $'`:                    {`\ \" $`},
		`"/a b"/c\ d'/e f' x`:         {"/a b/c d/e f", "x"},
		`"" '' x`:                     {"", "", "x"},
		// What does not start with a quote stands for itself.
		`/it's.tar x`:       {"/it's.tar", "x"},
		`/a\ b "c`[:5]:      {`/a\`, "b"},
		`/say"hi".tar`:      {`/say"hi".tar`},
		`label="a b"`:       {`label="a`, `b"`},
		"\"\xff \xc2\"":     {"\xff \xc2"},
		"\"a\"\u00a0b":      {"a", "b"},
		"'a'\\\u00e9 'ü ß'": {"a\u00e9", "ü ß"},
	} {
		if got, err := words(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		`"/my root.tar`:   "a quote is not closed",
		`'/my root.tar x`: "a quote is not closed",
		`x "`:             "a quote is not closed",
		`"a\"`:            "a quote is not closed",
		`"a"'`:            "a quote is not closed",
		`"a\`:             "a quote is not closed",
		`"a"\`:            "nothing follows a backslash",
	} {
		if got, err := words(in); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want %s", in, got, err, want)
		}
	}
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{"", "a:1 b:2", `"/my root.tar" me/app:v1`, `'/it'\''s' x`, `"\"\\\$" '`, `/it's x`, "\"\xff\"\u2003'", `''""\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := words(s)
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) || got != nil || !strings.ContainsAny(s, `"'`) {
				t.Fatalf("%q: %q, %v", s, got, err)
			}
			return
		}
		if !strings.ContainsAny(s, `"'`) && !slices.Equal(got, strings.Fields(s)) {
			t.Fatalf("%q without a quote: %q", s, got)
		}
		total := 0
		for _, w := range got {
			total += len(w)
			if w != "" && strings.Contains(w, "\x00") && !strings.Contains(s, "\x00") {
				t.Fatalf("%q: %q", s, w)
			}
			if strings.ContainsFunc(w, unicode.IsSpace) && !strings.ContainsAny(s, `"'`) {
				t.Fatalf("%q: %q", s, w)
			}
		}
		if total > len(s) {
			t.Fatalf("%q grew to %q", s, got)
		}
		// Quoted in either way, words are what they were.
		var single, double []string
		for _, w := range got {
			single = append(single, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
			double = append(double, `"`+strings.NewReplacer(`"`, `\"`, `\`, `\\`, "$", `\$`, "`", "\\`").Replace(w)+`"`)
		}
		for _, q := range [][]string{single, double} {
			line := strings.Join(q, " ")
			if again, err := words(line); err != nil || !slices.Equal(again, got) {
				t.Fatalf("%q quoted is %q, read as %q, %v", got, line, again, err)
			}
		}
	})
}
