package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"imagefs/store/archive"
)

// barDelay is how long work may take without a progress bar.
const barDelay = time.Second

// progress is a progress bar on the user's terminal. A nil one does nothing.
type progress struct {
	out  io.Writer
	show chan any // closed when the bar shall appear
	wait *time.Timer

	moving sync.Mutex // guards what follows; taken before mu
	pool   *mpb.Progress
	bar    *mpb.Bar
	ended  bool

	// The bar takes mu while it is drawn, and whoever moves it waits for that: so
	// nobody has mu who calls the bar.
	mu    sync.Mutex // guards what follows
	what  string
	total int64
	plain bool // what is counted are things, not bytes
}

// newProgress returns the bar for one piece of work, nil if it is not wanted:
// standard error is where it goes, and that must be a terminal.
func newProgress(a *app, quiet bool) *progress {
	if quiet || !terminal(a.err) {
		return nil
	}
	p := &progress{out: a.err, show: make(chan any), total: -1}
	p.wait = time.AfterFunc(barDelay, func() { close(p.show) })
	return p
}

// report moves the bar. Its name goes to archive.Options.Progress.
func (p *progress) report(now archive.Progress) {
	if p == nil {
		return
	}
	p.moving.Lock()
	defer p.moving.Unlock()
	if p.ended {
		return
	}
	if p.bar == nil {
		p.start()
	}
	p.mu.Lock()
	p.what = now.What
	other := now.Total > 0 && now.Total != p.total
	if other {
		p.total = now.Total
	}
	p.mu.Unlock()
	if other {
		p.bar.SetTotal(now.Total, false)
	}
	p.bar.SetCurrent(now.Read)
}

// count moves the bar of work that is counted in things.
func (p *progress) count(what string, done, of int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.plain = true
	p.mu.Unlock()
	p.report(archive.Progress{Read: int64(done), Total: int64(of), What: what})
}

// start makes the bar; p.moving is held.
func (p *progress) start() {
	p.pool = mpb.New(mpb.WithOutput(p.out), mpb.WithRenderDelay(p.show), mpb.WithWidth(64), mpb.WithAutoRefresh())
	known := func(decor.Statistics) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.total > 0
	}
	plain := func(decor.Statistics) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.plain
	}
	p.bar = p.pool.New(0, mpb.BarStyle(),
		mpb.BarFillerMiddleware(func(bar mpb.BarFiller) mpb.BarFiller {
			return mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
				if !known(st) {
					return nil
				}
				return bar.Fill(w, st)
			})
		}),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.what
		}, decor.WC{W: 20, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.Any(func(st decor.Statistics) string {
			size := func(n int64) string { return units.HumanSize(float64(n)) }
			if plain(st) {
				size = func(n int64) string { return fmt.Sprint(n) }
			}
			if !known(st) {
				return size(st.Current)
			}
			return size(st.Current) + " of " + size(st.Total)
		})),
	)
}

// done takes the bar away. It may be called more than once.
func (p *progress) done() {
	if p == nil {
		return
	}
	p.moving.Lock()
	defer p.moving.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	p.wait.Stop()
	if p.pool != nil {
		p.bar.Abort(true)
		p.pool.Wait()
	}
}
