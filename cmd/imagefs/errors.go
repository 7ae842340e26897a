package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"imagefs/store"
	"imagefs/store/report"
)

// The exit codes; topicExit tells users of them.
const (
	exitOK       = 0
	exitError1   = 1
	exitUsage    = 2
	exitInternal = 125
	exitSignal   = 128 // and the number of the signal
)

// exitError ends the program after everything has been said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// failed is returned by a command that has told of its errors itself.
var failed = &exitError{exitError1}

// usageError is an error in how a command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u) || errors.Is(err, report.ErrTemplate)
}

// advised is an error with what to do about it.
type advised struct {
	error
	advice string
}

func (e advised) Error() string { return e.error.Error() + "; " + e.advice }
func (e advised) Unwrap() error { return e.error }

// during says which command met an error, unless the error begins with that already.
func during(command string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), command+" ") {
		return err
	}
	return fmt.Errorf("%s: %w", command, err)
}

// advise adds what to do to an error, where that is known.
func advise(err error) error {
	var a advised
	switch {
	case err == nil || errors.As(err, &a):
		return err
	case errors.Is(err, fs.ErrPermission) && !errors.Is(err, store.ErrReadOnly) && os.Geteuid() != 0:
		return advised{err, "try it as root (sudo imagefs …), or with a store of your own (--store)"}
	}
	return err
}

// tails are ends of messages that say again what the message has said.
var tails = []struct {
	class error
	text  []string
}{
	{store.ErrNotFound, []string{"no such", "no store", "no layer", "no image for"}},
	{store.ErrBusy, []string{"conflict", "another process"}},
	{store.ErrReadOnly, []string{"is running on", "read-only"}},
	{store.ErrTooLarge, []string{"more than", "over"}},
	{store.ErrCorrupt, []string{"archive", "hashes to", "another content", "is missing in", "neither a tar"}},
}

// sentence is an error in one line, as the user reads it.
func sentence(err error) string {
	if errors.Is(err, context.Canceled) {
		return strings.Replace(oneLine(err.Error()), context.Canceled.Error(), "interrupted", 1)
	}
	s := oneLine(advise(err).Error())
	advice := ""
	var a advised
	if errors.As(advise(err), &a) {
		s = strings.TrimSuffix(s, "; "+oneLine(a.advice))
		advice = "; " + oneLine(a.advice)
	}
	for _, t := range tails {
		short, cut := strings.CutSuffix(s, ": "+t.class.Error())
		if !cut {
			continue
		}
		for _, w := range t.text {
			if strings.Contains(short, w) {
				s = short
				break
			}
		}
	}
	if short, cut := strings.CutSuffix(s, ": invalid"); cut && !strings.HasSuffix(short, `"`) {
		s = short
	}
	return strings.ReplaceAll(s, ": invalid: invalid ", ": invalid ") + advice
}

// shellWord is a word as it is typed to a shell.
func shellWord(s string) string {
	safe := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("_-./:@%+=,", r)
	}
	if s != "" && strings.TrimFunc(s, safe) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// oneLine returns text without line breaks and without what a terminal obeys.
func oneLine(s string) string {
	return report.Printable(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' }), "; "))
}

// operand names the argument of a command that stands at place n of its usage line.
func operand(cmd *cobra.Command, n int) string {
	var words []string
	optional := false
	for _, w := range strings.Fields(cmd.Use)[1:] {
		optional = optional || strings.HasPrefix(w, "[")
		if !optional {
			words = append(words, w)
		}
		optional = optional && !strings.Contains(w, "]")
	}
	if n < len(words) {
		return words[n]
	}
	return "an argument"
}
