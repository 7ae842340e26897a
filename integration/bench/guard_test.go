package bench

import (
	"fmt"
	"runtime"
	"testing"
)

// guard is a test whose failure ends one measurement only.
type guard struct {
	testing.TB
	why string // the first failure
}

// guarded runs f, which may end with Fatal or Skip, and returns why it did; ""
// if it went well.
func guarded(t testing.TB, f func(t testing.TB)) (why string) {
	g := &guard{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(g)
	}()
	<-done
	return g.why
}

func (g *guard) note(s string) {
	if g.why == "" {
		g.why = s
	}
}

func (g *guard) Error(args ...any)            { g.note(fmt.Sprint(args...)) }
func (g *guard) Errorf(f string, args ...any) { g.note(fmt.Sprintf(f, args...)) }
func (g *guard) Fail()                        { g.note("failed") }
func (g *guard) Failed() bool                 { return g.why != "" }
func (g *guard) FailNow()                     { g.Fail(); runtime.Goexit() }
func (g *guard) Fatal(args ...any)            { g.Error(args...); runtime.Goexit() }
func (g *guard) Fatalf(f string, args ...any) { g.Errorf(f, args...); runtime.Goexit() }

// What is not here is skipped in a test; a row without it is not measured.

func (g *guard) Skip(args ...any)            { g.Fatal(append([]any{absent}, args...)...) }
func (g *guard) Skipf(f string, args ...any) { g.Fatalf(absent+f, args...) }
func (g *guard) SkipNow()                    { g.Fatal(absent + "skipped") }
