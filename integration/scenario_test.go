package integration

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scenario is a document that changes while clients follow it through all that may
// happen to their connections.
type scenario struct {
	t         *testing.T
	upstream  *upstream
	caddy     *caddy
	site      string
	version   int
	followers []*follower
}

// follower is a client that follows the document.
type follower struct {
	*judge
	name string
	path string          // of the URL
	wire *cutter         // between it and Caddy
	cuts []cut           // where its connection is cut
	take func() []report // returns what it has reported since the last time

	halves bool // it reports an event without the blank line, too
}

// newScenario begins a scenario. The site's directives are those that are given, behind
// which lies the document. That each client connects to a port of its own makes no
// difference to what is polled.
func newScenario(t *testing.T, directives string) *scenario {
	s := &scenario{t: t, upstream: newUpstream(t, market(0))}
	s.site = fmt.Sprintf("request_header Host localhost\n%s\nreverse_proxy /api/* %s", directives, s.upstream.Listener.Addr())
	s.caddy = start(t, s.site)
	return s
}

// plainAndGzip are directives of a document, compressed or not as the URL says. Streams
// end soon, and have heartbeats before that.
const plainAndGzip = `
	poll_sse /api/gzip* {
		interval 20ms
		retry 20ms 50ms
		drain 100ms
		max_age 600ms
		heartbeat 200ms
		selectable /version
	}
	poll_sse /api/plain* {
		interval 20ms
		retry 20ms 50ms
		drain 100ms
		max_age 600ms
		heartbeat 200ms
		selectable /version
		compress off
	}`

// follow adds a client of the document at path, which begin starts with its URL.
func (s *scenario) follow(name, path string, begin func(url string) (take func() []report)) *follower {
	s.t.Helper()
	f := &follower{name: name + " at " + path, path: path, judge: newJudge(), cuts: cuts}
	if strings.HasPrefix(path, "/api/gzip") {
		f.cuts = compressedCuts
	}
	f.wire = newCutter(s.t, filepath.Join(s.caddy.dir, "h1"))
	s.followers = append(s.followers, f)
	f.take = begin(fmt.Sprintf("http://localhost:%d%s", f.wire.port(), path))
	return f
}

// play lets happen what may happen. Connections are cut as often as said.
func (s *scenario) play(cuts int) {
	s.t.Helper()
	s.arrive("the first document")
	for range 3 {
		s.change()
		s.arrive("live")
	}
	for i := range cuts {
		s.cut(i)
	}
	s.resetIdle()
	s.outliveAge()
	s.reload()
	s.restart(syscall.SIGTERM, false)
	s.restart(syscall.SIGKILL, true)
	s.verdict(cuts)
}

// change makes the next version, and waits until it has been polled everywhere.
func (s *scenario) change() {
	s.t.Helper()
	s.version++
	s.upstream.set(market(s.version))
	// When the second poll from here on begins, the first has got this version.
	before := s.polls()
	s.caddy.eventually("the upstream is polled", func() bool {
		for path, n := range s.polls() {
			if n < before[path]+2 {
				return false
			}
		}
		return true
	})
}

// polls returns how often each path that is followed has been polled.
func (s *scenario) polls() map[string]int {
	n := make(map[string]int)
	for _, f := range s.followers {
		path, _, _ := strings.Cut(f.path, "?")
		n[path] = 0
	}
	s.upstream.mu.Lock()
	defer s.upstream.mu.Unlock()
	for _, poll := range s.upstream.polls {
		n[poll.URL.Path]++
	}
	return n
}

// arrive waits until all clients have the newest version.
func (s *scenario) arrive(when string) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for _, f := range s.followers {
		for s.listen(f, when); f.version != s.version; s.listen(f, when) {
			if time.Now().After(deadline) {
				s.t.Fatalf("%s: %s has version %d, not %d; %s", when, f.name, f.version, s.version, f.newest(s.t))
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// newest says what went over the wire last.
func (f *follower) newest(t *testing.T) string {
	streams := f.wire.streams(t)
	if len(streams) == 0 {
		return "it has never connected"
	}
	last := streams[len(streams)-1]
	ids := []string{}
	for _, e := range last.events {
		ids = append(ids, e.ID)
	}
	return fmt.Sprintf("its stream no. %d resumed after %q, was sent %q and ended with %v", len(streams), last.lastEventID, ids, last.err)
}

// listen judges what a client has reported.
func (s *scenario) listen(f *follower, when string) {
	s.t.Helper()
	for _, e := range f.take() {
		if err := f.hear(e); err != nil {
			s.t.Fatalf("%s: %s: %v", when, f.name, err)
		}
	}
}

// cut cuts all connections in the middle of an event, some of them by a reset, and
// changes the document while clients are away.
func (s *scenario) cut(round int) {
	s.t.Helper()
	for i, f := range s.followers {
		f.wire.resets((round+i)%2 == 1)
		f.wire.cutAt(f.cuts[(round+i)%len(f.cuts)].at, round%2)
	}
	s.change()
	for i, f := range s.followers {
		where := f.cuts[(round+i)%len(f.cuts)].name
		s.caddy.eventually(fmt.Sprintf("%s is cut %s", f.name, where), f.wire.hasCut)
	}
	for range 3 {
		s.change()
	}
	s.arrive("after a cut")
	s.change()
	s.arrive("live after a cut")
}

// resetIdle resets connections on which nothing happens, and lets the document be the
// same or change while clients are away.
func (s *scenario) resetIdle() {
	s.t.Helper()
	for i := range 3 {
		for _, f := range s.followers {
			f.wire.reset()
		}
		if i == 0 {
			time.Sleep(200 * time.Millisecond) // they come back and are sent nothing
		}
		for range i {
			s.change()
		}
		s.arrive("after a reset")
	}
}

// outliveAge lets streams come to their end, with nothing to say at first, and then while
// the document changes.
func (s *scenario) outliveAge() {
	s.t.Helper()
	ends := func() int { return s.caddy.metric(`caddy_poll_sse_stream_ends_total{reason="age"}`) }
	enough := ends() + 3*len(s.followers)
	s.caddy.eventually("streams end", func() bool { return ends() >= enough })
	for enough += len(s.followers); ends() < enough; {
		s.change()
	}
	s.arrive("after streams have ended")
}

// reload loads the configuration anew, twice, and changes the document meanwhile.
func (s *scenario) reload() {
	s.t.Helper()
	for range 2 {
		if err := s.caddy.reload(s.site); err != nil {
			s.t.Fatal(err)
		}
		for range 3 {
			s.change()
		}
		s.arrive("after a reload")
	}
}

// restart ends the process and starts another, with the same document or another.
func (s *scenario) restart(signal syscall.Signal, change bool) {
	s.t.Helper()
	s.caddy.process.Process.Signal(signal)
	select {
	case <-s.caddy.exited:
	case <-time.After(patience):
		s.t.Fatal("Caddy does not end")
	}
	s.caddy.stop() // looks through the log
	if change {
		s.version++
		s.upstream.set(market(s.version))
	}
	s.caddy.run(s.site)
	s.arrive("after a restart")
	for range 3 {
		s.change()
		s.arrive("live after a restart")
	}
}

// verdict compares what clients have reported with what went over the wire, and looks
// whether all that was to happen did.
func (s *scenario) verdict(cuts int) {
	s.t.Helper()
	time.Sleep(100 * time.Millisecond) // for what should not come
	for _, f := range s.followers {
		s.listen(f, "at the end")
		if f.version != s.version {
			s.t.Errorf("%s ends with version %d, not %d", f.name, f.version, s.version)
		}
		streams := f.wire.streams(s.t)
		sent := make(map[report]bool)
		clean, unclean, resumed := 0, 0, 0
		for _, stream := range streams {
			for _, e := range stream.events {
				sent[report{e.ID, e.Type, e.Data}] = true
			}
			if f.halves {
				sent[report{stream.half.ID, stream.half.Type, stream.half.Data}] = true
			}
			switch {
			case stream.err == io.EOF:
				clean++
			case strings.Contains(stream.err.Error(), "unexpected EOF"): // net/http has its own, in a trailer
				unclean++
			default:
				s.t.Errorf("%s: a stream ended with %v", f.name, stream.err)
			}
			if stream.lastEventID != "" {
				resumed++
			}
		}
		for _, e := range f.seen {
			if !sent[e] {
				s.t.Errorf("%s: event %q with %q was never sent", f.name, e.ID, cutShort(e.Data))
			}
		}
		if unclean < cuts || clean < 2 || resumed != len(streams)-1 {
			s.t.Errorf("%s: of %d streams %d ended in the middle, %d cleanly, and %d resumed", f.name, len(streams), unclean, clean, resumed)
		}
		s.t.Logf("%s: %d events in %d streams, %d of which were cut and %d ended; excused: %v", f.name, len(f.seen), len(streams), unclean, clean, f.excused)
	}
}

// without returns cuts other than the one with that name.
func without(cuts []cut, name string) []cut {
	i := slices.IndexFunc(cuts, func(c cut) bool { return c.name == name })
	if i < 0 {
		panic("no cut " + name)
	}
	return slices.Delete(slices.Clone(cuts), i, i+1)
}
