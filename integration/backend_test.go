package integration

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// backend is an upstream that speaks TCP: every byte, pause and end of a connection is
// as a test wishes. It complains about polls that overlap, carry cookies or go where
// only a redirect leads.
type backend struct {
	t         *testing.T
	address   string
	resources map[string]*scripted // by path
	serving   sync.WaitGroup

	mu       sync.Mutex // guards all below
	listener net.Listener
	conns    map[*net.TCPConn]bool
}

// newBackend serves until the test ends.
func newBackend(t *testing.T) *backend {
	b := &backend{t: t, address: "127.0.0.1:0", resources: make(map[string]*scripted), conns: make(map[*net.TCPConn]bool)}
	if err := b.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.shut()
		b.serving.Wait()
	})
	return b
}

// resource adds one, before Caddy starts.
func (b *backend) resource(path string, script func(poll) answer) *scripted {
	r := &scripted{t: b.t, path: path, script: script, served: make(map[digest]serving)}
	b.resources[path] = r
	return r
}

// listen accepts connections at the address, always the same one.
func (b *backend) listen() error {
	listener, err := net.Listen("tcp", b.address)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listener, b.address = listener, listener.Addr().String()
	b.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.serving.Go(func() { b.serve(conn.(*net.TCPConn)) })
		}
	})
	return nil
}

// shut refuses connections and ends those there are.
func (b *backend) shut() {
	b.mu.Lock()
	b.listener.Close()
	b.mu.Unlock()
	b.drop()
}

// drop ends all connections.
func (b *backend) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.conns {
		conn.Close()
	}
}

// serve answers the polls that come over one connection.
func (b *backend) serve(conn *net.TCPConn) {
	b.mu.Lock()
	b.conns[conn] = true
	b.mu.Unlock()
	requests, gone := make(chan *http.Request), make(chan struct{})
	var reading sync.WaitGroup
	served := make(chan struct{})
	defer func() {
		conn.Close()
		close(served)
		reading.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, conn)
	}()
	reading.Go(func() {
		defer close(gone)
		for r := bufio.NewReader(conn); ; {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			select {
			case requests <- request:
			case <-served:
				return
			}
		}
	})
	for n := 0; ; n++ {
		select {
		case request := <-requests:
			if !b.answer(conn, request, n > 0, requests, gone) {
				return
			}
		case <-gone:
			return
		}
	}
}

// answer answers one poll, and reports whether the connection can carry another.
func (b *backend) answer(conn *net.TCPConn, request *http.Request, reused bool, requests <-chan *http.Request, gone <-chan struct{}) bool {
	r := b.resources[request.URL.Path]
	if r == nil {
		b.t.Errorf("the upstream is asked for %s", request.URL)
		return false
	}
	if cookie := request.Header.Get("Cookie"); cookie != "" {
		b.t.Errorf("%s: a poll carries the cookie %s", r.path, cookie)
	}
	a, done := r.begin(request, reused)
	err := a.send(conn, gone)
	left := func() { // until the other side leaves, or sends what nobody will answer
		select {
		case <-gone:
		case <-requests:
		}
	}
	if err == nil && a.end == stall {
		left()
	}
	if a.end == reset {
		conn.SetLinger(0) // or the kernel closes in order
		conn.Close()
	} else if a.end == finish {
		conn.CloseWrite()
	}
	done()
	if a.end == finish {
		left() // or what Caddy still sends is answered by a reset
	}
	return err == nil && a.end == keep
}

// ending is what a connection comes to after an answer.
type ending int

const (
	keep   ending = iota // it waits for the next poll
	finish               // closed in order (FIN)
	reset                // broken off (RST)
	stall                // nothing more comes, until the other side closes it
)

func (e ending) String() string { return [...]string{"keep", "FIN", "RST", "stall"}[e] }

// answer is what the backend sends to one poll.
type answer struct {
	wire  string        // status line, header and body
	after time.Duration // before the first byte
	split int           // bytes before a short pause, 0 for none
	pace  time.Duration // between two bytes
	more  string        // sent again and again after that
	end   ending
}

// closed ends an answer with the connection.
func (a answer) closed() answer {
	a.end = finish
	return a
}

// cut ends an answer before its byte k.
func (a answer) cut(k int, end ending) answer {
	a.wire, a.end, a.split = a.wire[:k], end, min(a.split, k)
	return a
}

var errGone = errors.New("the other side has closed the connection")

func (a answer) send(conn net.Conn, gone <-chan struct{}) error {
	if err := wait(a.after, gone); err != nil {
		return err
	}
	for i := 0; a.pace > 0 && i < len(a.wire); i++ {
		if _, err := conn.Write([]byte{a.wire[i]}); err != nil {
			return err
		}
		if err := wait(a.pace, gone); err != nil {
			return err
		}
	}
	if a.pace == 0 {
		if _, err := conn.Write([]byte(a.wire[:a.split])); err != nil {
			return err
		}
		if a.split > 0 {
			wait(2*time.Millisecond, gone)
		}
		if _, err := conn.Write([]byte(a.wire[a.split:])); err != nil {
			return err
		}
	}
	for a.more != "" {
		if _, err := conn.Write([]byte(a.more)); err != nil {
			return err
		}
	}
	return nil
}

// wait lets time pass while the other side is there.
func wait(d time.Duration, gone <-chan struct{}) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-gone:
		return errGone
	}
}

// scripted is a resource of the backend, with what its script has answered.
type scripted struct {
	t    *testing.T
	path string

	mu     sync.Mutex // guards all below
	script func(poll) answer
	served map[digest]serving
	asked  int           // polls
	answer chan struct{} // closed when the newest poll is answered
	spared bool          // it found a connection that was closed beneath it
	last   outcome       // of it
	status int           // that it was answered with
	recent []string      // answers, for messages
	first  time.Time     // when the first poll came
	latest time.Time     // and the newest
	failed int           // polls in a row that cannot have been good
	least  time.Duration // that so many polls take
}

// serving is a document that an answer held.
type serving struct {
	order   int // of the poll, the first one that was answered so
	outcome outcome
}

// poll is one as the backend sees it.
type poll struct {
	number      int // of the resource, from 0
	reused      bool
	conditional bool
}

// begin draws the answer to a poll. The caller calls done once that is sent.
func (r *scripted) begin(request *http.Request, reused bool) (a answer, done func()) {
	mine := make(chan struct{})
	r.mu.Lock()
	other := r.answer
	r.answer = mine
	r.mu.Unlock()
	if other != nil {
		select { // where the poll timed out, we may learn that late
		case <-other:
		case <-time.After(patience):
			r.t.Errorf("%s: polls overlap", r.path)
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	p := poll{number: r.asked, reused: reused}
	p.conditional = request.Header.Get("If-None-Match") != "" || request.Header.Get("If-Modified-Since") != ""
	r.paceLocked()
	a = r.script(p)
	document, o := a.judge(p.conditional)
	if document != "" {
		if d := digestOf(document); r.served[d] == (serving{}) {
			r.served[d] = serving{p.number + 1, o}
		}
	}
	r.asked, r.last = r.asked+1, o
	r.recent = append(r.recent[max(0, len(r.recent)-2):], fmt.Sprintf("%.400q %v", a.wire, a.end))
	r.spared = reused && a.wire == "" && (a.end == finish || a.end == reset)
	r.status, _, _ = a.head()
	return a, func() { close(mine) }
}

// paceLocked adds up how long it must have taken from poll to poll. Single ones may
// come to us late, but none comes too early.
func (r *scripted) paceLocked() {
	r.latest = time.Now()
	if r.asked == 0 {
		r.first = r.latest
		return
	}
	switch {
	case r.spared: // an HTTP client tries another one at once (RFC 9112 §9.3.1)
	case r.last != unusable:
		r.failed = 0
		r.least += interval * 9 / 10
	default:
		r.failed++
		switch r.status {
		case 401, 403, 410: // are to be confirmed; a 403 may also tell how long to wait
			r.least += interval
		default:
			r.least += max(interval, interval<<min(r.failed, 10)/2)
		}
	}
}

// set changes the script to one answer.
func (r *scripted) set(a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script = func(poll) answer { return a }
}

// again forgets what was, for another run.
func (r *scripted) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.served, r.asked, r.failed, r.least = make(map[digest]serving), 0, 0, 0
}

func (r *scripted) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// find says which poll was first answered with a document.
func (r *scripted) find(d digest) (serving, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.served[d]
	return s, ok
}

// recently returns the newest answers.
func (r *scripted) recently() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.recent, "\n\t")
}

// stormed says whether polls came faster than interval and backoff allow.
func (r *scripted) stormed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if took := r.latest.Sub(r.first); r.least > took+time.Second {
		return fmt.Errorf("%d polls in %v, which take %v at least", r.asked, took, r.least)
	}
	return nil
}

// site polls all resources, each over connections of its own where apart says so.
func (b *backend) site(subdirectives string, apart bool) string {
	site := fmt.Sprintf("poll_sse /api/* {\n%s\n}\nreverse_proxy /api/* %s\n", subdirectives, b.address)
	for path := range b.resources {
		if apart {
			site += fmt.Sprintf("reverse_proxy %s %s\n", path, b.address)
		}
	}
	return site
}
