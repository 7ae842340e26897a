// Package api asks a Docker daemon for the few things that imagefs needs of
// one: who it is, and changes to its images. Everything that a daemon answers
// is bounded in size, and in time by how long it may be silent.
//
// Requests carry no version of the API, which means the daemon's own:
//
//	GET    /info                          Daemon: its data root, driver, ID, containerd
//	GET    /containers/json?all=1         [{"Id":…,"ImageID":…}, …]
//	POST   /images/<image>/tag?repo=&tag= 201
//	DELETE /images/<image>?force=&noprune= [{"Untagged":…}|{"Deleted":…}, …]
//	POST   /images/load                   an archive; messages come back, one JSON value each
//
// Errors are {"message":…} with a status, or {"error":…} among the messages of
// a load. They wrap store.ErrNotFound (404), store.ErrBusy (409),
// store.ErrInvalid (400), fs.ErrPermission (401, 403), or nothing.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

// Bounds on what a daemon answers.
const (
	maxHeader  = 64 << 10
	maxError   = 64 << 10
	maxAnswer  = 16 << 20
	maxMessage = 1000 // bytes of a sentence that is passed on
)

// How long a daemon may be silent. A load and a removal do their work before they answer.
var (
	askTime  = 10 * time.Second
	workTime = 10 * time.Minute
	// leaveTime is how long a change is waited for when nobody wants to any more.
	leaveTime = 10 * time.Second
)

// Client talks to one address. Safe for concurrent use.
type Client struct {
	host          string
	network, addr string
	peer          atomic.Int32
	http          http.Client
}

// New makes a Client for an address as DOCKER_HOST names it: unix:///path or
// tcp://host:port, without TLS. Nothing is connected yet.
func New(host string) (*Client, error) {
	c := &Client{host: host}
	c.peer.Store(-1)
	scheme, rest, _ := strings.Cut(host, "://")
	switch {
	case scheme == "unix" && strings.HasPrefix(rest, "/"):
		c.network, c.addr = "unix", rest
	case scheme == "tcp" && rest != "":
		c.network, c.addr = "tcp", strings.TrimSuffix(rest, "/")
		if _, _, err := net.SplitHostPort(c.addr); err != nil {
			return nil, fmt.Errorf("docker host %.200q: %w: %w", host, store.ErrInvalid, err)
		}
	default:
		return nil, fmt.Errorf("docker host %.200q: only unix:///path and tcp://host:port can be used: %w", host, store.ErrInvalid)
	}
	c.http = http.Client{
		Transport: &http.Transport{
			DialContext: c.dial, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Host returns the address as New was given it.
func (c *Client) Host() string { return c.host }

// Local tells whether the address is a socket of this machine's file system.
func (c *Client) Local() bool { return c.network == "unix" }

// Peer returns the ID of the process that listens on the socket, as the last
// connection told: 0 if it is outside of our PID namespace, -1 if unknown.
func (c *Client) Peer() int { return int(c.peer.Load()) }

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	d := net.Dialer{Timeout: askTime}
	conn, err := d.DialContext(ctx, c.network, c.addr)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return conn, nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return conn, nil
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			c.peer.Store(cred.Pid)
		}
	})
	return conn, nil
}

// Daemon is what a daemon says of itself.
type Daemon struct {
	ID            string
	Name          string // the host's
	Driver        string // storage driver, or snapshotter
	DockerRootDir string
	// Snapshots says that the images are in a containerd's store. That containerd
	// answers at a socket of the path Containerd, and has them in Namespace.
	Snapshots  bool   `json:"-"`
	Containerd string `json:"-"`
	Namespace  string `json:"-"`
}

// snapshotType is the type of driver of a daemon that keeps its images in a containerd's store.
const snapshotType = "io.containerd.snapshotter.v1"

// Info asks who the daemon is.
func (c *Client) Info(ctx context.Context) (Daemon, error) {
	var d struct {
		Daemon
		DriverStatus [][2]string
		Containerd   struct {
			Address    string
			Namespaces struct{ Containers string }
		}
	}
	err := c.call(ctx, http.MethodGet, "/info", nil, askTime, func(r io.Reader) error { return json.NewDecoder(r).Decode(&d) })
	d.Snapshots = slices.Contains(d.DriverStatus, [2]string{"driver-type", snapshotType})
	d.Daemon.Containerd, d.Namespace = d.Containerd.Address, d.Containerd.Namespaces.Containers
	return d.Daemon, err
}

// Container is a container, running or not.
type Container struct {
	ID      string `json:"Id"`
	ImageID string // as the daemon calls images: with Snapshots the digest of a manifest or an index
}

// Containers asks for all containers.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	var out []Container
	err := c.call(ctx, http.MethodGet, "/containers/json", url.Values{"all": {"1"}}, askTime, func(r io.Reader) error { return json.NewDecoder(r).Decode(&out) })
	return out, err
}

// Tag gives an image, by its ID, a name. As with Remove, the answer to a request
// that was sent is waited for, a while longer if ctx ends: the daemon does not stop.
func (c *Client) Tag(ctx context.Context, id, repo, tag string) error {
	q := url.Values{"repo": {repo}, "tag": {tag}}
	return c.change(ctx, http.MethodPost, "/images/"+id+"/tag", q, nil)
}

// Removed is one step of a removal; one of the two is set.
type Removed struct {
	Untagged string `json:",omitempty"`
	Deleted  string `json:",omitempty"`
}

// Remove removes a name, or an image by its ID, by the rules of docker rmi.
// With noprune untagged parents stay.
func (c *Client) Remove(ctx context.Context, image string, force, noprune bool) ([]Removed, error) {
	q := url.Values{}
	if force {
		q.Set("force", "1")
	}
	if noprune {
		q.Set("noprune", "1")
	}
	var out []Removed
	err := c.change(ctx, http.MethodDelete, "/images/"+image, q, func(r io.Reader) error { return json.NewDecoder(r).Decode(&out) })
	return out, err
}

// change is call for what the daemon does whether or not anybody waits for it.
func (c *Client) change(ctx context.Context, method, path string, q url.Values, read func(io.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	leave := leaveTime
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(leave, func() {
			cancel(fmt.Errorf("%w; the Docker daemon at %s has not answered and may still do it", context.Cause(ctx), c.host))
		})
	})()
	return c.call(inner, method, path, q, workTime, read)
}

// call does one request without a body. read, if not nil, reads the answer.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, patience time.Duration, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(patience, func() { cancel(c.silent(patience)) })
	defer silence.Stop()
	resp, err := c.do(ctx, method, path, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := &limited{r: resp.Body, left: maxAnswer}
	if read == nil {
		_, err = io.Copy(io.Discard, body)
	} else {
		err = read(body)
	}
	if err != nil {
		return c.unreadable(ctx, err)
	}
	return nil
}

// do sends a request and returns the answer if it is one of success.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the rest is about an address that is not the daemon's
		}
		return nil, c.unreadable(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
		return nil, refusal(resp.StatusCode, b)
	}
	return resp, nil
}

// unreadable is the error of an answer that did not come, or not as it should.
func (c *Client) unreadable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("the Docker daemon at %s: %w", c.host, err)
}

func (c *Client) silent(d time.Duration) error {
	return fmt.Errorf("the Docker daemon at %s: no answer in %s", c.host, d)
}

// refusal is the error of an answer with a status.
func refusal(status int, body []byte) error {
	var m struct{ Message string }
	if json.Unmarshal(body, &m) != nil || m.Message == "" {
		m.Message = http.StatusText(status)
	}
	said := "docker: " + sentence(m.Message)
	kind := map[int]error{
		http.StatusBadRequest: store.ErrInvalid, http.StatusNotFound: store.ErrNotFound, http.StatusConflict: store.ErrBusy,
		http.StatusUnauthorized: fs.ErrPermission, http.StatusForbidden: fs.ErrPermission,
	}[status]
	if kind == nil {
		return fmt.Errorf("%s (status %d)", said, status)
	}
	return fmt.Errorf("%s: %w", said, kind)
}

// sentence makes one line of what a daemon said.
func sentence(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s[:min(len(s), maxMessage)])
	return strings.TrimSpace(s)
}

// limited fails, and does not end, where too much comes.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("an answer of more than %d bytes: %w", maxAnswer, store.ErrTooLarge)
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}
