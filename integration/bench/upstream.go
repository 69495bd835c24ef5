//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// upstream is the backend that all contenders poll. While it runs, each answer is a new
// version of its document; otherwise it repeats the last one.
type upstream struct {
	listener net.Listener
	size     int    // of an event
	rest     string // of the document, which never changes

	mu   sync.Mutex // guards all below
	text *market
	n    int64 // of the version
	body []byte
	left int           // versions to make
	made chan struct{} // closed when there are none left
}

// newUpstream serves documents whose events have that size, and rest bytes of others.
func newUpstream(size, rest int) (*upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	text := newMarket()
	u := &upstream{listener: listener, size: size, rest: text.text(rest), text: text}
	u.makeLocked()
	go http.Serve(listener, u)
	return u, nil
}

func (u *upstream) address() string { return u.listener.Addr().String() }

func (u *upstream) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	u.mu.Lock()
	if u.left > 0 {
		u.n++
		u.makeLocked()
		if u.left--; u.left == 0 {
			close(u.made)
		}
	}
	body := u.body
	u.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

func (u *upstream) makeLocked() {
	u.body = fmt.Appendf(nil, `{"e":"%s","rest":"%s"}`, changing(u.text, u.n, time.Now().UnixNano(), u.size), u.rest)
}

// serveFixed replaces the document by one that does not change.
func (u *upstream) serveFixed(body []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.body = body
}

// run lets so many versions be made, and returns when they have been asked for.
func (u *upstream) run(versions int) error {
	u.mu.Lock()
	u.left, u.made = versions, make(chan struct{})
	made := u.made
	u.mu.Unlock()
	select {
	case <-made:
		return nil
	case <-time.After(patience):
		return errors.New("not all versions were asked for")
	}
}

// runFor lets as many versions be made as are asked for in that time, and returns how many.
func (u *upstream) runFor(d time.Duration) int {
	const plenty = 1 << 30
	u.mu.Lock()
	u.left, u.made = plenty, make(chan struct{})
	u.mu.Unlock()
	time.Sleep(d)
	u.mu.Lock()
	defer u.mu.Unlock()
	versions := plenty - u.left
	u.left = 0
	return versions
}

func (u *upstream) close() { u.listener.Close() }
