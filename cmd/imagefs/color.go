package main

import (
	"fmt"
	"os"
	"slices"
)

// colorWhen is the value of --color.
type colorWhen string

var colorTimes = []string{"auto", "always", "never"}

func (c *colorWhen) String() string { return string(*c) }
func (c *colorWhen) Type() string   { return "WHEN" }

func (c *colorWhen) Set(s string) error {
	if !slices.Contains(colorTimes, s) {
		return fmt.Errorf("want auto, always or never")
	}
	*c = colorWhen(s)
	return nil
}

// on tells whether to colour what goes to standard output: by itself only on a
// terminal that can, and not if NO_COLOR is set (no-color.org).
func (c colorWhen) on(a *app) bool {
	if c == "auto" {
		return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && terminal(a.stdout)
	}
	return c == "always"
}

// The colours that git and others give such lines.
const (
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	plain  = "\x1b[m"
)
