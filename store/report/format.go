package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"unicode"
)

// ErrTemplate classifies what is wrong with a template that a user gave.
var ErrTemplate = errors.New("bad template")

// The formats that have a name.
const (
	tableFormat = "table"
	jsonFormat  = "json"
)

// isTable tells whether a format makes a table: "table", or "table" with a template.
func isTable(format string) bool { return strings.HasPrefix(format, tableFormat) }

// functions are those that Docker gives to templates.
var functions = template.FuncMap{
	"json":  toJSON,
	"split": strings.Split,
	"join":  join,
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"title": title,
	"pad": func(s string, before, after int) string {
		if s == "" {
			return s
		}
		return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
	},
	"truncate": func(s string, n int) string {
		if n < 0 || n > len(s) {
			return s
		}
		return s[:n]
	},
}

// headings are the functions for the line of column headings, which stay as they are.
var headings = template.FuncMap{
	"json":     func(s string) string { return s },
	"split":    func(s, _ string) string { return s },
	"join":     func(s, _ string) string { return s },
	"lower":    func(s string) string { return s },
	"upper":    func(s string) string { return s },
	"title":    func(s string) string { return s },
	"truncate": func(s string, _ int) string { return s },
}

func toJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

func join(list any, sep string) (string, error) {
	switch l := list.(type) {
	case nil:
		return "", nil
	case []string:
		return strings.Join(l, sep), nil
	}
	v := reflect.ValueOf(list)
	var out []string
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			out = append(out, fmt.Sprint(v.Index(i).Interface()))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			out = append(out, fmt.Sprint(v.MapIndex(k).Interface()))
		}
		slices.Sort(out)
	default:
		return "", fmt.Errorf("join: want a list, got %T", list)
	}
	return strings.Join(out, sep), nil
}

func title(s string) string {
	before := ' '
	return strings.Map(func(r rune) rune {
		start := !unicode.IsLetter(before) && !unicode.IsDigit(before) && before != '_' && before != '\''
		before = r
		if start {
			return unicode.ToTitle(r)
		}
		return r
	}, s)
}

// parseTemplate parses a user's template; `\t` and `\n` in it mean what they do in Go.
func parseTemplate(text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.Trim(text, " "))
	t, err := template.New("format").Funcs(functions).Parse(text)
	if err != nil {
		return nil, badTemplate(err)
	}
	return t, nil
}

// badTemplate leaves out what package template says of a name that no user knows.
func badTemplate(err error) error {
	return fmt.Errorf("%w: %s", ErrTemplate, strings.TrimPrefix(err.Error(), "template: format:"))
}

// WriteTemplate writes what a template makes of v, and the end of the line.
// ErrTemplate for one that is none or does not fit.
func WriteTemplate(w io.Writer, text string, v any) error {
	return writeRows(w, text, nil, []any{v})
}

// writeRows writes rows in a format: "json", a template, or "table" with a
// template; header names the columns by field.
func writeRows[T any](w io.Writer, format string, header map[string]string, rows []T) error {
	text := strings.TrimPrefix(format, tableFormat)
	if format == jsonFormat {
		text = "{{json .}}"
	}
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, r := range rows {
		if err := t.Execute(&b, r); err != nil {
			return badTemplate(err)
		}
		b.WriteByte('\n')
	}
	if isTable(format) {
		var h bytes.Buffer
		// A column that is no plain field has no heading; the rows count.
		_ = t.Funcs(headings).Execute(&h, header)
		h.WriteByte('\n')
		h.Write(b.Bytes())
		b = align(h.String())
	}
	_, err = w.Write(b.Bytes())
	return err
}

// The columns of a table: as wide as the widest cell and the gap, and not under the least.
const (
	leastWidth = 10
	gap        = 3
)

// maxPadding bounds the blanks in one column of a table in bytes. One endless
// cell in a table of many rows widens no column.
const maxPadding = 16 << 20

// align turns lines of cells with tabs between them into columns.
func align(text string) bytes.Buffer {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	most := max(leastWidth, maxPadding/len(lines))
	var widths []int
	for _, l := range lines {
		cells := strings.Split(l, "\t")
		for i, c := range cells[:len(cells)-1] {
			if i == len(widths) {
				widths = append(widths, leastWidth)
			}
			if n := columns.StringWidth(c) + gap; n <= most {
				widths[i] = max(widths[i], n)
			}
		}
	}
	var b bytes.Buffer
	for _, l := range lines {
		cells := strings.Split(l, "\t")
		for i, c := range cells {
			b.WriteString(c)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", max(gap, widths[i]-columns.StringWidth(c))))
			}
		}
		b.WriteByte('\n')
	}
	return b
}

// encode writes v as JSON with Docker's indentation, "" for one line. The
// control characters that JSON may contain as they are become escapes too.
func encode(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	var out bytes.Buffer
	for _, r := range b.String() {
		if r != '\n' && hazard(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}
