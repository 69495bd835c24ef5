package pollsse

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A client's place is restored wherever it was said.
func TestWebKitKeepsTheIDOfTheQuery(t *testing.T) {
	id := eventID{1, 2, 3}.String()
	r := httptest.NewRequest(http.MethodGet, "/?lastEventId="+id, nil)
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Cache-Control", "no-cache")
	r.Header.Set("User-Agent", "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15")
	if got, want := string(preamble(r, time.Second)), ":\nid: "+id+"\nevent: _\n\nretry: 1000\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWebKitIsKnown(t *testing.T) {
	const (
		safari = "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15"
		chrome = "Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
	)
	for _, c := range []struct {
		agent, accept, cache string
		want                 bool
	}{
		{safari, "text/event-stream", "no-cache", true},
		{chrome, "text/event-stream", "no-cache", false},
		{safari, "text/event-stream, */*", "no-cache", false},
		{safari, "text/event-stream", "", false},
		{safari, "text/event-stream", "no-store", false},
		{"Mozilla/5.0 Gecko/20100101 Firefox/150.0", "text/event-stream", "no-cache", false},
		{"", "text/event-stream", "no-cache", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header = http.Header{"User-Agent": {c.agent}, "Accept": {c.accept}, "Cache-Control": {c.cache}}
		if got := fromWebKit(r); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// A polyfill that asks for it is sent more than two kilobytes first, and its place and
// its wish are no part of what is polled.
func TestPadding(t *testing.T) {
	for query, want := range map[string]bool{
		"padding=true": true, "a=b&padding=true&lastEventId=x": true, "padding=1": false, "PADDING=true": true, "padding=tru%65": true, "padding": false, "xpadding=true": false, "": false,
	} {
		r := received(t, "/?"+query, nil)
		text := string(preamble(r, time.Second))
		line, rest, _ := strings.Cut(text, "\n")
		if padded := len(line) > 2<<10; padded != want || line[0] != ':' || !strings.HasSuffix(rest, "retry: 1000\n") || strings.Contains(text, "\n\n") {
			t.Errorf("%s: %d bytes, %q", query, len(line), rest)
		}
		if uri := (&Handler{Query: []string{"*"}}).forwardedURI("/", query); want && strings.Contains(uri, "padding") || query == "padding=1" && uri != "/?padding=1" {
			t.Errorf("%s: polls %s", query, uri)
		}
	}
}

// Retries are drawn from the whole range.
func TestRetryIsDrawn(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := between(caddy.Duration(time.Second), caddy.Duration(4*time.Second))
		least, most = min(least, d), max(most, d)
	}
	if least < time.Second || least > 1100*time.Millisecond || most > 4*time.Second || most < 3900*time.Millisecond {
		t.Errorf("from %v to %v", least, most)
	}
}

// While streams drain, which may take long, they still beat.
func TestHeartbeatsWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Drain: caddy.Duration(1000 * time.Hour), Interval: caddy.Duration(time.Hour)})
		c := s.get(s.h, "/")
		synctest.Wait()
		s.h.beginDrain()
		synctest.Wait()
		before := len(c.text())
		time.Sleep(time.Minute)
		if beats := strings.Count(c.text()[before:], heartbeat); !c.ended() && beats != 4 {
			t.Errorf("%d heartbeats in a minute", beats)
		}
		s.close(c)
	})
}

// tiring is a client that takes some writes and then fails.
type tiring struct {
	recordedResponse
	left, refused int
}

func (w *tiring) Write(p []byte) (int, error) {
	if w.left == 0 {
		w.refused++
		return 0, errors.New("gone")
	}
	w.left--
	return w.recordedResponse.Write(p)
}

// Who cannot be written to is not written to again, not even an end.
func TestFailedWritesEndStreams(t *testing.T) {
	for writes := 1; writes < 5; writes++ { // the header of gzip, the preamble, events
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
			n := 0
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { n++; return answering(fmt.Sprint(n))(w, r) })
			failed, bytes := total(t, streamEndsTotal, endClientLeft), total(t, sentBytesTotal, "gzip")
			w := &tiring{recordedResponse{header: make(http.Header)}, writes, 0}
			ctx, leave := context.WithTimeout(context.Background(), time.Minute)
			defer leave()
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody)
			r.Header = http.Header{"Accept": {"text/event-stream"}, "Accept-Encoding": {"gzip"}}
			s.h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), s)
			if failed = total(t, streamEndsTotal, endClientLeft) - failed; failed != 1 || w.refused != 1 || w.left != 0 {
				t.Errorf("after %d writes: %v streams failed, %d writes more", writes, failed, w.refused)
			}
			if bytes = total(t, sentBytesTotal, "gzip") - bytes; bytes != float64(w.body.Len()) {
				t.Errorf("after %d writes: %v bytes are counted, %d were taken", writes, bytes, w.body.Len())
			}
			s.close()
		})
	}
}

// A stream ends for the reason that is counted, at once where that may not wait, and with
// a proper end unless its client has left.
func TestEndsOfStreams(t *testing.T) {
	for _, c := range []struct {
		name, why string
		end       func(s *site, c *client)
		within    time.Duration
		cut       bool
	}{
		{"age", endAge, func(*site, *client) {}, 11 * time.Minute, false},
		{"drain", endDrain, func(s *site, _ *client) { s.h.beginDrain() }, 10 * time.Second, false},
		{"exit", endExit, func(s *site, _ *client) { s.h.beginExit() }, 0, false},
		{"withdrawn", endWithdrawn, func(s *site, _ *client) { s.setAnswer(status(403)) }, 8 * time.Minute, false},
		{"left", endClientLeft, func(_ *site, c *client) { c.leave() }, 0, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{Interval: caddy.Duration(5 * time.Minute), MaxAge: caddy.Duration(10 * time.Minute), Heartbeat: caddy.Duration(time.Hour), Drain: caddy.Duration(10 * time.Second)})
			ends := total(t, streamEndsTotal, c.why)
			client := s.get(s.h, "/", "Accept-Encoding", "gzip")
			synctest.Wait()
			if !s.h.open.any() {
				t.Errorf("%s: the end of the process does not cut it", c.name)
			}
			began := time.Now()
			c.end(s, client)
			if <-client.done; time.Since(began) > c.within {
				t.Errorf("%s: ended after %v", c.name, time.Since(began))
			}
			if ends = total(t, streamEndsTotal, c.why) - ends; ends != 1 || s.h.open.any() {
				t.Errorf("%s: %v streams are counted, one is open %v", c.name, ends, s.h.open.any())
			}
			if text, cut := gunzip(t, []byte(client.text())); cut != c.cut || !strings.Contains(text, `{"n":1}`) {
				t.Errorf("%s: cut off %v: %q", c.name, cut, text)
			}
			s.close(client)
		})
	}
}

// No heartbeat puts off the end of a stream.
func TestAgeBetweenHeartbeats(t *testing.T) {
	for _, heartbeat := range []time.Duration{7 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{MaxAge: caddy.Duration(10 * time.Second), Heartbeat: caddy.Duration(heartbeat)})
			var clients []*client
			for range 30 {
				clients = append(clients, s.get(s.h, "/"))
			}
			time.Sleep(8900 * time.Millisecond)
			for _, early := range []bool{true, false} {
				synctest.Wait()
				for _, c := range clients {
					if c.ended() == early {
						t.Errorf("heartbeat %v: ended %v", heartbeat, early)
					}
				}
				time.Sleep(2200 * time.Millisecond)
			}
			s.close(clients...)
		})
	}
}

// Where something is sent, no heartbeat is.
func TestDeliveriesPutOffHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(4 * time.Second), Heartbeat: caddy.Duration(10 * time.Second)})
		n := 0
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { n++; return answering(fmt.Sprint(n))(w, r) })
		c := s.get(s.h, "/")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		// The preamble begins with one, and the first may come before the second event.
		if events, beats := len(c.events()), strings.Count("\n"+c.text(), "\n:\n")-1; events < 25 || beats > 1 {
			t.Errorf("%d events, %d heartbeats", events, beats)
		}
		s.close(c)
	})
}

// The time to end is drawn once, whatever is sent meanwhile, and is not after the age.
func TestDrainIsDrawnOnce(t *testing.T) {
	for _, c := range []struct{ drain, least, most time.Duration }{
		{10 * time.Second, 7 * time.Second, 10 * time.Second}, // the last of 50
		{time.Hour, 50 * time.Second, 66 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{Interval: caddy.Duration(200 * time.Millisecond), MaxAge: caddy.Duration(time.Minute), Drain: caddy.Duration(c.drain)})
			n := 0
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { n++; return answering(fmt.Sprint(n))(w, r) })
			var clients []*client
			for range 50 {
				clients = append(clients, s.get(s.h, "/"))
			}
			synctest.Wait()
			began := time.Now()
			s.h.beginDrain()
			for _, c := range clients {
				<-c.done
			}
			if took := time.Since(began); took < c.least || took > c.most {
				t.Errorf("drain %v: the last stream ended after %v", c.drain, took)
			}
			s.close(clients...)
		})
	}
}

// How a stream found its place is counted once, when it has found one.
func TestPlacesAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := func() [4]float64 {
			return [4]float64{total(t, resumesTotal, "new"), total(t, resumesTotal, string(resumedHeld)), total(t, resumesTotal, string(resumedSnapshot)), total(t, slowSnapshotsTotal, "evicted")}
		}
		before := counts()
		expect := func(what string, want ...float64) {
			t.Helper()
			synctest.Wait()
			for i, n := range counts() {
				if n -= before[i]; n != want[i] {
					t.Errorf("%s: %v of count %d, want %v", what, n, i, want[i])
				}
			}
		}
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		s.setAnswer(status(500))
		first := s.get(s.h, "/")
		early := s.get(s.h, "/", "Last-Event-ID", eventID{1, 2, 3}.String())
		synctest.Wait()
		n := 0
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			n++
			return answering(fmt.Sprintf(`{"n":%d,"rest":%q}`, n/3, roomy))(w, r)
		})
		s.waitForPolls(1)
		expect("a document", 1, 0, 1, 0)
		back := s.get(s.h, "/", "Last-Event-ID", first.events()[0].ID)
		expect("a client that has it", 1, 1, 1, 0)
		time.Sleep(20 * time.Second)
		if len(back.events()) < 3 {
			t.Errorf("%q", back.text())
		}
		expect("events", 1, 1, 1, 0)
		s.close(first, early, back)
	})
}

// What is written again and again takes no memory, and keeps no event alive.
func TestReusedMemory(t *testing.T) {
	event := newFrame([]byte("x"), nil)
	events := reusable([]*frame{event, event, event, event})
	if len(events) != 0 || cap(events) != 4 {
		t.Fatalf("length %d, capacity %d", len(events), cap(events))
	}
	for _, f := range events[:4] {
		if f != nil {
			t.Error("an event is kept")
		}
	}
	if reusable(make([]*frame, 100)) != nil {
		t.Error("much memory is kept")
	}
}

// exitsAtOnce is a client that takes the first chunk when the process ends.
type exitsAtOnce struct {
	recordedResponse
	exit func()
}

func (w *exitsAtOnce) Write(p []byte) (int, error) {
	if len(p) == chunk {
		w.exit()
	}
	return w.recordedResponse.Write(p)
}

func TestLargeEventsEndWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(answering(`"` + strings.Repeat("x", 5*chunk) + `"`))
		w := &exitsAtOnce{recordedResponse{header: make(http.Header)}, s.h.beginExit}
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header.Set("Accept", "text/event-stream")
		func() {
			defer func() {
				if recover() != http.ErrAbortHandler { // or it would look complete
					t.Error("the response is not aborted")
				}
			}()
			s.h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), s)
		}()
		if n := w.body.Len(); n < chunk || n >= 2*chunk {
			t.Errorf("%d bytes were written", n)
		}
		s.close()
	})
}

// What became due while a stream could not write is left behind by none.
func TestStalledStreamsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Heartbeat: caddy.Duration(time.Second)})
		w := &slowResponse{recordedResponse{header: make(http.Header)}, time.Hour, make(chan struct{})}
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header.Set("Accept", "text/event-stream")
		began := time.Now()
		s.h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), s)
		if took := time.Since(began); took < chunkDeadline || took > chunkDeadline+2*patrolInterval {
			t.Errorf("cut after %v", took)
		}
		s.close() // and the bubble has no other goroutines
	})
}
