package integration

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// witness is a client that stays, and holds each document against what the backend
// has served.
type witness struct {
	*caddy
	*scripted
	s    *connection
	done chan struct{}

	mu    sync.Mutex // guards all below
	doc   any
	order int // of the poll that was answered with doc
	seq   int // of the newest event
	err   error
}

// follow connects to a resource until the test, or the witness, ends.
func (c *caddy) follow(protocol string, r *scripted, header ...string) (*witness, error) {
	s, err := c.connect(protocol, r.path, "", header...)
	if err != nil {
		return nil, err
	}
	if got := s.response.Header.Get("Content-Type"); s.response.StatusCode != 200 || got != "text/event-stream; charset=utf-8" {
		s.close()
		return nil, fmt.Errorf("%s with Content-Type %q", s.response.Status, got)
	}
	for _, name := range []string{"Set-Cookie", "ETag", "Link", "Location", "Retry-After", "Age"} { // are the upstream's
		if got := s.response.Header.Get(name); got != "" {
			s.close()
			return nil, fmt.Errorf("a client is sent %s: %s", name, got)
		}
	}
	f := &witness{caddy: c, scripted: r, s: s, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for {
			e, err := s.Next()
			if err == nil {
				err = f.see(e.ID, e.Data)
			}
			if err != nil {
				f.mu.Lock()
				f.err = err
				f.mu.Unlock()
				return
			}
		}
	}()
	return f, nil
}

// see applies an event.
func (f *witness) see(id, patch string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	doc, err := oracle.Apply(f.doc, []byte(patch))
	if err != nil {
		return err
	}
	served, ok := f.find(canonical(doc))
	switch {
	case !ok:
		return fmt.Errorf("event %s: no answer held the document of %.300s; the newest ones are\n\t%s", id, patch, f.recently())
	case served.order <= f.order:
		return fmt.Errorf("event %s goes back from answer %d to %d", id, f.order, served.order)
	}
	seq, err := strconv.ParseInt(id[12:len(id)-12], 36, 0)
	f.doc, f.order, f.seq = doc, served.order, int(seq)
	return err
}

// state returns the order of the document that is held.
func (f *witness) state() (order int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.order, f.err
}

// holds reports whether that is the document held.
func (f *witness) holds(document string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return canonical(f.doc) == digestOf(document)
}

// sees waits for a document, as long as there is news.
func (f *witness) sees(document string) error {
	for {
		from, err := f.state()
		if err != nil || f.holds(document) {
			return err
		}
		if err := within(fmt.Sprintf("a client sees %.60s", document), func() (bool, error) {
			order, err := f.state()
			return order != from, err
		}); err != nil {
			return err
		}
	}
}

// leave closes the stream, which has to be open.
func (f *witness) leave() error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	f.s.close()
	<-f.done
	if err != nil {
		return fmt.Errorf("the stream is not open: %w", err)
	}
	return nil
}

// within waits for what has to happen.
func within(what string, happened func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if ok, err := happened(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("waited in vain: " + what)
		}
	}
}

// transitions counts the lines that say how a resource's upstream turned, which have to
// take turns.
func (c *caddy) transitions(r *scripted) (stale, live, late int, err error) {
	for line := range strings.SplitSeq(c.log.String(), "\n") {
		switch {
		case !strings.Contains(line, r.path+`"`) || !strings.HasSuffix(line, "}"):
		case strings.Contains(line, "upstream is stale"):
			stale++
			if strings.Contains(line, `"cause":"timeout"`) {
				late++
			}
		case strings.Contains(line, "upstream is live again"):
			live++
		}
		if stale-live < 0 || stale-live > 1 {
			return stale, live, late, fmt.Errorf("%d lines say stale, %d live: %s", stale, live, line)
		}
	}
	return stale, live, late, nil
}
