package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Load sends an archive of the form of docker save, which write writes, and
// waits until the daemon has taken it in.
//
// As long as the archive is not whole, an end of ctx or an error of write
// cancels the load, and the daemon keeps nothing of it. From then on the daemon
// cannot be stopped; its answer is waited for, whatever ctx says.
func (c *Client) Load(ctx context.Context, write func(io.Writer) error) error {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	silence := time.AfterFunc(workTime, func() { cancel(c.silent(workTime)) })
	defer silence.Stop()

	r, w := io.Pipe()
	up := &upload{r: r, moved: func() { silence.Reset(workTime) }}
	defer context.AfterFunc(ctx, func() { up.unlessWhole(func() { cancel(context.Cause(ctx)) }) })()
	var writing sync.WaitGroup
	var failed error
	writing.Go(func() {
		failed = write(w)
		w.CloseWithError(failed)
	})
	err := c.send(inner, up)
	// A daemon that answers early reads no further.
	_ = r.CloseWithError(errUnread)
	writing.Wait()
	if failed != nil && !errors.Is(failed, errUnread) {
		return failed
	}
	if err == nil && failed != nil {
		return fmt.Errorf("the Docker daemon at %s answered before it had read the archive", c.host)
	}
	return err
}

// errUnread is what a writer of an archive gets that nobody reads any more.
var errUnread = errors.New("the daemon reads no further")

func (c *Client) send(ctx context.Context, up *upload) error {
	resp, err := c.do(ctx, http.MethodPost, "/images/load", map[string][]string{"quiet": {"1"}}, up)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := messages(&limited{r: resp.Body, left: maxAnswer}); err != nil {
		var said *daemonError
		if errors.As(err, &said) {
			return err
		}
		return c.unreadable(ctx, err)
	}
	return nil
}

// daemonError is an error that a daemon reports while it loads.
type daemonError struct{ said string }

func (e *daemonError) Error() string { return "docker: " + e.said }

// messages reads the messages of a load to their end, which has to come.
func messages(r io.Reader) error {
	d := json.NewDecoder(r)
	for {
		var m struct {
			Error       string `json:"error"`
			ErrorDetail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		err := d.Decode(&m)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("its answer cannot be read: %w", err)
		case m.ErrorDetail.Message != "":
			return &daemonError{sentence(m.ErrorDetail.Message)}
		case m.Error != "":
			return &daemonError{sentence(m.Error)}
		}
	}
}

// upload is an archive on its way.
type upload struct {
	r     *io.PipeReader
	moved func()

	mu    sync.Mutex
	whole bool // the end has been read
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	u.moved()
	if errors.Is(err, io.EOF) {
		u.mu.Lock()
		u.whole = true
		u.mu.Unlock()
	}
	return n, err
}

// Close is called by package http when it reads no further.
func (u *upload) Close() error { return u.r.CloseWithError(errUnread) }

func (u *upload) unlessWhole(do func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.whole {
		do()
	}
}
