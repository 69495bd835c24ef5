package pollsse

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// recordedResponse notes writes and flushes.
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
		synctest.Wait()
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

type brokenFlush struct{ recordedResponse }

func (*brokenFlush) FlushError() error { return errors.New("broken") }

func TestBrokenFlushEndsAStream(t *testing.T) {
	w := &brokenFlush{recordedResponse{header: make(http.Header)}}
	if err := newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil)).write(time.Now(), []byte("x"), nil); err == nil {
		t.Error("no error")
	}
}

// A large write ends with the process, after the chunk that it is at.
func TestLargeWritesEndWithTheProcess(t *testing.T) {
	exiting := make(chan struct{})
	w := &recordedResponse{header: make(http.Header)}
	r := newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(exiting))
	large := newFrame(make([]byte, 3*chunk), nil)
	if err := r.write(time.Now(), nil, []*frame{large}); err != nil || w.body.Len() != 3*chunk {
		t.Errorf("before: %d bytes (%v)", w.body.Len(), err)
	}
	close(exiting)
	if err := r.write(time.Now(), nil, []*frame{large}); err == nil || w.body.Len() != 4*chunk {
		t.Errorf("then: %d bytes (%v)", w.body.Len(), err)
	}
}

// Nor may the first chunk stall, or the end of a compressed stream, and then nothing that
// has ended is cut.
func TestStalledBeginningsAndEndsAreCut(t *testing.T) {
	for _, step := range []func(*response){
		func(r *response) { r.write(time.Now(), []byte("x"), nil) },
		func(r *response) { r.end() },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &slowResponse{recordedResponse{header: make(http.Header)}, 0, make(chan struct{})}
			r := newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil))
			r.begin(true)
			w.takes = time.Hour
			began := time.Now()
			step(r)
			if took := time.Since(began); took < chunkDeadline || took > chunkDeadline+2*patrolInterval {
				t.Errorf("cut after %v", took)
			}
			if r.since.Load() != 0 {
				t.Error("still takes for being written")
			}
			r.close()
		})
	}
}

// Nobody looks at streams while there are none.
func TestPatrolEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := newOpenStreams(nil)
		one, other := new(response), new(response)
		open.add(one)
		patrol := open.patrol
		if open.add(other); open.patrol != patrol {
			t.Error("each stream has its own")
		}
		time.Sleep(10 * patrolInterval)
		synctest.Wait()
		open.remove(one)
		if !open.patrol.Reset(patrolInterval) {
			t.Error("one stream is not looked at")
		}
		open.remove(other)
		if open.patrol.Stop() {
			t.Error("no streams are looked at")
		}
		open.look() // was on its way
		if open.patrol.Stop() {
			t.Error("no streams are looked at once more")
		}
	})
}

// deadlines counts those that are set.
type deadlines struct {
	recordedResponse
	n int
}

func (w *deadlines) SetWriteDeadline(time.Time) error { w.n++; return nil }

// outer is what another handler puts around a writer.
type outer struct {
	http.ResponseWriter
	written, flushed int
}

func (w *outer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w *outer) Write(p []byte) (int, error) { w.written += len(p); return w.ResponseWriter.Write(p) }
func (w *outer) FlushError() error {
	w.flushed++
	return http.NewResponseController(w.ResponseWriter).Flush()
}
func (w *outer) SetWriteDeadline(time.Time) error { panic("not made for two goroutines") }

// idleTimeouts returns the writer that Caddy puts around w where it has idle timeouts.
func idleTimeouts(r *http.Request, w http.ResponseWriter) (*http.Request, *caddyhttp.IdleTimeoutWriter) {
	idle := &caddyhttp.IdleTimeoutWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		Ctrl:                  http.NewResponseController(w),
		Deadline:              caddyhttp.IdleDeadline{Timeout: time.Minute},
		Logger:                zap.NewNop(),
	}
	return r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle)), idle
}

// Caddy's deadlines are not moved by streams, and are as before after them; what other
// handlers put around the writer sees all, but for the cut.
func TestDeadlinesOfCaddy(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		server := &deadlines{recordedResponse: recordedResponse{header: make(http.Header)}}
		r, idle := idleTimeouts(httptest.NewRequest(http.MethodGet, "/", nil), server)
		var w http.ResponseWriter = idle
		around := &outer{ResponseWriter: idle}
		if wrapped {
			w = around
		}
		open := newOpenStreams(nil)
		response := newResponse(w, r, open)
		response.begin(false)
		for range 3 {
			if err := response.write(time.Now(), []byte("text"), nil); err != nil {
				t.Fatal(err)
			}
		}
		if server.n != 0 || server.body.String() != "texttexttext" {
			t.Errorf("wrapped %v: %d deadlines, %q", wrapped, server.n, server.body.String())
		}
		if wrapped && (around.written != 12 || around.flushed != 3) {
			t.Errorf("%d bytes and %d flushes came by", around.written, around.flushed)
		}
		response.since.Store(1)
		if open.cutStalled(0); server.n != 1 {
			t.Errorf("wrapped %v: cut by %d deadlines", wrapped, server.n)
		}
		response.close()
		if idle.Write([]byte("x")); server.n == 1 {
			t.Errorf("wrapped %v: no deadline after the stream", wrapped)
		}
	}
}

// unflushed is a writer that cannot be flushed.
type unflushed struct{ w *recordedResponse }

func (u unflushed) Header() http.Header         { return u.w.Header() }
func (u unflushed) WriteHeader(status int)      { u.w.WriteHeader(status) }
func (u unflushed) Write(p []byte) (int, error) { return u.w.Write(p) }

func TestWritersWithoutFlushDo(t *testing.T) {
	w := unflushed{&recordedResponse{header: make(http.Header)}}
	if err := newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil)).write(time.Now(), []byte("x"), nil); err != nil {
		t.Error(err)
	}
}

// deadlineLog notes the deadlines that are set.
type deadlineLog struct {
	recordedResponse
	set []time.Time
}

func (w *deadlineLog) SetWriteDeadline(at time.Time) error {
	w.set = append(w.set, at)
	return nil
}

// closing notes that a connection was closed.
type closing struct {
	net.Conn
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// A write that a deadline does not end has time to be reset before its connection is
// closed, which other streams may share.
func TestConnectionsAreClosedLate(t *testing.T) {
	for limit, patience := range map[time.Duration]time.Duration{chunkDeadline: chunkDeadline, exitStall: exitPatience} {
		synctest.Test(t, func(t *testing.T) {
			open := newOpenStreams(nil)
			w, conn := &deadlineLog{recordedResponse: recordedResponse{header: make(http.Header)}}, new(closing)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			response := newResponse(w, r.WithContext(withConn(r.Context(), conn)), open)
			open.patrol.Stop()
			response.since.Store(uptime(time.Now()))
			time.Sleep(limit)
			open.cutStalled(limit)
			time.Sleep(patience - time.Millisecond)
			open.cutStalled(limit)
			if len(w.set) != 1 || conn.closed {
				t.Errorf("after %v: %d deadlines, closed %v", patience, len(w.set), conn.closed)
			}
			time.Sleep(time.Millisecond)
			if open.cutStalled(limit); len(w.set) != 1 || !conn.closed {
				t.Errorf("after %v: %d deadlines, closed %v", patience, len(w.set), conn.closed)
			}
			response.close()
		})
	}
}

// Over HTTP/2 a last write waits for the one before; over HTTP/1.1 what the server writes
// after a stream has a deadline, but not what others write after a long-poll, and no
// deadline brings back what was cut.
func TestEndsOfResponses(t *testing.T) {
	for _, c := range []struct {
		major       int
		stream, cut bool
		writes      int
		deadlines   int // in the end
	}{
		{1, true, false, 0, 1},
		{1, true, true, 0, 1}, // the cut
		{1, false, false, 0, 0},
		{2, true, false, 1, 0},
		{3, true, false, 1, 0},
	} {
		w := &deadlineLog{recordedResponse: recordedResponse{header: make(http.Header)}}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.ProtoMajor = c.major
		open := newOpenStreams(nil)
		response := newResponse(w, r, open)
		if c.stream {
			response.begin(false)
		}
		if c.cut {
			response.since.Store(uptime(time.Now()))
			open.cutStalled(0)
			response.since.Store(0)
		}
		if c.stream {
			response.end()
		}
		response.close()
		if len(w.sizes) != c.writes || len(w.set) != c.deadlines || c.cut && w.set[0].After(time.Now()) {
			t.Errorf("%+v: %d writes, deadlines %v", c, len(w.sizes), w.set)
		}
	}
}

// Who is turned away is not waited for either.
func TestStalledClientsAreTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		w := &slowResponse{recordedResponse{header: make(http.Header)}, time.Hour, make(chan struct{})}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept", "text/event-stream")
		began := time.Now()
		s.h.turnAway(w, r, time.Second)
		if took := time.Since(began); took > chunkDeadline+2*patrolInterval {
			t.Errorf("after %v", took)
		}
		s.close()
	})
}

// Who is turned away because the configuration is unloaded leaves the connection too,
// which the server may have failed to tell; who is over a limit does not.
func TestTurnedAwayFromAnEndingServer(t *testing.T) {
	s := newSite(t, new(Handler))
	defer s.close()
	closes := func(major int, header ...string) bool {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header.Set(header[0], header[1])
		r.ProtoMajor = major
		w := httptest.NewRecorder()
		s.h.turnAway(w, r, time.Second)
		return w.Result().Header.Get("Connection") == "close"
	}
	for _, draining := range []bool{false, true} {
		if draining {
			s.h.beginDrain()
		}
		for major := 1; major <= 3; major++ {
			for _, header := range [][]string{{"Accept", "text/event-stream"}, {"Prefer", "wait=1"}} {
				if got, want := closes(major, header...), draining && major < 3; got != want {
					t.Errorf("draining %v, HTTP/%d, %s: closes the connection %v", draining, major, header, got)
				}
			}
		}
	}
}

// brokenResponse cannot be written to.
type brokenResponse struct{ recordedResponse }

func (*brokenResponse) Write([]byte) (int, error) { return 0, errors.New("broken") }

// What breaks off over HTTP/3 does not end as if it were complete: the stream could still
// be closed in good order there.
func TestBrokenResponsesAreAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		for major := 1; major <= 3; major++ {
			for header, value := range map[string]string{"Accept": "text/event-stream", "Prefer": "wait=1"} {
				w := &brokenResponse{recordedResponse{header: make(http.Header)}}
				r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
				r.ProtoMajor = major
				r.Header.Set(header, value)
				var aborted any
				func() {
					defer func() { aborted = recover() }()
					s.h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), s)
				}()
				if (aborted == http.ErrAbortHandler) != (major == 3) {
					t.Errorf("HTTP/%d, %s: %v", major, header, aborted)
				}
			}
		}
		if s.h.open.any() || s.h.pool.streams != 0 {
			t.Error("an aborted response is not over")
		}
		s.close()
	})
}
