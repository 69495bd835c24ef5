package pollsse

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// recordedResponse notes writes, flushes and deadlines.
type recordedResponse struct {
	header http.Header
	calls  []string
	sizes  []int
	body   bytes.Buffer
}

func (w *recordedResponse) Header() http.Header { return w.header }
func (w *recordedResponse) WriteHeader(int)     { w.calls = append(w.calls, "header") }
func (w *recordedResponse) Flush()              { w.calls = append(w.calls, "flush") }
func (w *recordedResponse) Write(p []byte) (int, error) {
	w.calls, w.sizes = append(w.calls, "write"), append(w.sizes, len(p))
	return w.body.Write(p)
}

// What is pending together is flushed together, in chunks; order is kept.
func TestWritesAreChunked(t *testing.T) {
	part := func(c string, n int) []byte { return []byte(strings.Repeat(c, n)) }
	event := func(c string, n int) *frame { return newFrame(part(c, n), nil) }
	for _, c := range []struct {
		text   []byte
		events []*frame
		sizes  string
	}{
		{nil, []*frame{event("a", 10)}, "[10]"},
		{part("a", 10), []*frame{event("b", 20), event("c", 30)}, "[10 20 30]"},
		{part("a", 10), nil, "[10]"},
		{nil, []*frame{event("b", 150<<10), event("c", 30)}, "[65536 65536 22528 30]"},
		{nil, []*frame{event("a", 64<<10)}, "[65536]"},
	} {
		w := &recordedResponse{header: make(http.Header)}
		response := newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil))
		if err := response.write(time.Now(), c.text, slices.Clone(c.events)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(w.sizes); got != c.sizes {
			t.Errorf("writes of %s, want %s", got, c.sizes)
		}
		if w.body.String() != string(c.text)+text(c.events) {
			t.Errorf("writes of %s are not what was to be written", c.sizes)
		}
		if got, want := strings.Join(w.calls, " "), strings.Repeat("write ", len(w.sizes))+"flush"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// slowResponse takes a while for each write, but none after a deadline.
type slowResponse struct {
	recordedResponse
	takes time.Duration
	cut   chan struct{}
}

func (w *slowResponse) Write(p []byte) (int, error) {
	select {
	case <-time.After(w.takes):
		return w.recordedResponse.Write(p)
	case <-w.cut:
		return 0, errors.New("cut")
	}
}

func (w *slowResponse) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() && time.Now().After(at) {
		close(w.cut)
	}
	return nil
}

// Who is slow is slow; who reads nothing for a while is cut, even if others are busy, and
// who has nothing to read is left alone.
func TestStalledWritesAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := newOpenStreams(nil)
		event := newFrame(make([]byte, 5*chunk), nil)
		results := make(map[time.Duration]chan error)
		respond := func(takes time.Duration) *response {
			w := &slowResponse{recordedResponse{header: make(http.Header)}, takes, make(chan struct{})}
			return newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), open)
		}
		idle := respond(0)
		if err := idle.write(time.Now(), []byte(heartbeat), nil); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for _, takes := range []time.Duration{time.Millisecond, chunkDeadline - time.Second, time.Hour} {
			r, result := respond(takes), make(chan error)
			results[takes] = result
			go func() {
				defer r.close()
				result <- r.write(time.Now(), nil, []*frame{event})
			}()
		}
		if err := <-results[time.Millisecond]; err != nil {
			t.Errorf("a fast client: %v", err)
		}
		if err, after := <-results[time.Hour], time.Since(began); err == nil || after < chunkDeadline || after > chunkDeadline+2*patrolInterval {
			t.Errorf("a stalled client: %v after %v", err, after)
		}
		if err, after := <-results[chunkDeadline-time.Second], time.Since(began); err != nil || after < 40*time.Second {
			t.Errorf("a slow client: %v after %v", err, after)
		}
		if err := idle.write(time.Now(), []byte(heartbeat), nil); err != nil {
			t.Errorf("an idle client: %v", err)
		}
		idle.close()
		if open.any() {
			t.Error("not all have ended")
		}
	})
}

func TestHeaderOfStreams(t *testing.T) {
	w := &recordedResponse{header: http.Header{"Content-Length": {"5"}, "Vary": {"Origin"}, "Access-Control-Allow-Origin": {"*"}}}
	newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil)).begin(false)
	want := http.Header{
		"Access-Control-Allow-Origin": {"*"},
		"Cache-Control":               {"no-store, no-transform"},
		"Content-Type":                {"text/event-stream; charset=utf-8"},
		"Vary":                        {"Origin", "Accept, Accept-Encoding"},
		"X-Accel-Buffering":           {"no"},
	}
	if got := fmt.Sprint(w.header); got != fmt.Sprint(want) {
		t.Errorf("%s, want %v", got, want)
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

type brokenFlush struct{ recordedResponse }

func (*brokenFlush) FlushError() error { return errors.New("broken") }

func TestBrokenFlushEndsAStream(t *testing.T) {
	w := &brokenFlush{recordedResponse{header: make(http.Header)}}
	if err := newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil)).write(time.Now(), []byte("x"), nil); err == nil {
		t.Error("no error")
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
