package pollsse

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// preferences are Prefer header fields, and how long they want to wait.
var preferences = []struct {
	header string
	want   time.Duration // -1: no long-poll
}{
	{"wait=10", 10 * time.Second},
	{"Wait = 10", 10 * time.Second},
	{`wait="10"`, 10 * time.Second},
	{"respond-async, wait=7; x=y, handling=lenient", 7 * time.Second},
	{"wait=5, wait=9", 5 * time.Second},
	{"wait=0", 0},
	{"wait=60", time.Minute},
	{"wait=61", time.Minute},
	{"wait=2147483647", time.Minute},
	{"wait=99999999999999999999", -1},
	{"wait=-1", -1},
	{"wait=1.5", -1},
	{"wait=", -1},
	{"wait", -1},
	{"waiting=5", -1},
	{"respond-async", -1},
	{`foo="a, wait=5"`, -1},
	{`foo="a\", wait=5", wait=7`, 7 * time.Second},
	{"", -1},
}

func TestPreferredWait(t *testing.T) {
	for _, c := range preferences {
		r := received(t, "/", func(r *http.Request) { r.Header.Set("Prefer", c.header) })
		wait, ok := preferredWait(r)
		if !ok {
			wait = -1
		}
		if wait != c.want {
			t.Errorf("%s: %v", c.header, wait)
		}
		r.Method = http.MethodPost
		if _, ok := preferredWait(r); ok {
			t.Error("POST is a long-poll")
		}
	}
	r := received(t, "/", func(r *http.Request) { r.Header["Prefer"] = []string{"respond-async", "wait=3"} })
	if wait, ok := preferredWait(r); !ok || wait != 3*time.Second {
		t.Errorf("two fields: %v", wait)
	}
}

func TestKnownIDs(t *testing.T) {
	a, b := eventID{1, 2, 3}, eventID{4, 5, 6}
	for header, want := range map[string][]eventID{
		`W/"` + a.String() + `"`:                             {a},
		`"` + a.String() + `"`:                               {a},
		`"x", W/"` + b.String() + `",W/"` + a.String() + `"`: {b, a},
		`*`:       nil,
		`"x"`:     nil,
		``:        nil,
		`W/"`:     nil,
		"\x00,,,": nil,
	} {
		r := received(t, "/", func(r *http.Request) { r.Header.Set("If-None-Match", header) })
		if got := knownIDs(r); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v", header, got)
		}
	}
}

// longPoll asks for what is not the document of that tag.
func (s *site) longPoll(h *Handler, seconds int, tag string) *client {
	return s.request(h, http.MethodGet, "/", "Prefer", fmt.Sprint("wait=", seconds), "If-None-Match", tag)
}

func (c *client) expect(t *testing.T, status int, body string, after time.Duration, began time.Time) {
	t.Helper()
	<-c.done
	if c.status != status || c.text() != body || time.Since(began) != after {
		t.Errorf("%d %q after %v, want %d %q after %v", c.status, c.text(), time.Since(began), status, body, after)
	}
}

func TestLongPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour), Linger: caddy.Duration(2 * time.Hour)})
		began := time.Now()
		first := s.longPoll(s.h, 10, "")
		first.expect(t, 200, `{"n":1}`, 0, began)
		tag := first.header.Get("ETag")
		want := http.Header{
			"Cache-Control":      {"no-store"},
			"Content-Length":     {"7"},
			"Content-Type":       {"application/json"},
			"Etag":               {tag},
			"Preference-Applied": {"wait=10"},
			"Vary":               {"Accept, Prefer"},
		}
		if got := fmt.Sprint(first.header); got != fmt.Sprint(want) || !strings.HasPrefix(tag, `W/"`) {
			t.Errorf("%s, want %v", got, want)
		}

		s.longPoll(s.h, 60, `"other"`).expect(t, 200, `{"n":1}`, 0, began)
		s.longPoll(s.h, 0, tag).expect(t, 304, "", 0, began)
		same := s.longPoll(s.h, 90, tag)
		same.expect(t, 304, "", time.Minute, began)
		delete(want, "Content-Length")
		delete(want, "Content-Type")
		want.Set("Preference-Applied", "wait=60")
		if got := fmt.Sprint(same.header); got != fmt.Sprint(want) {
			t.Errorf("%s, want %v", got, want)
		}

		// A stream has the same ids.
		stream := s.get(s.h, "/")
		synctest.Wait()
		id := stream.events()[0].ID
		if tag != `W/"`+id+`"` {
			t.Errorf("the stream says %s, the long-poll %s", id, tag)
		}
		waiting := []*client{s.longPoll(s.h, 60, tag), s.longPoll(s.h, 60, `"x", `+tag)}
		synctest.Wait()
		s.setAnswer(answering(`{"n":2}`))
		time.Sleep(20 * time.Second)
		for r := range s.h.pool.byKey {
			s.h.pool.byKey[r].poke()
		}
		for _, c := range waiting {
			c.expect(t, 200, `{"n":2}`, 80*time.Second, began)
			if c.header.Get("ETag") == tag {
				t.Error("another document with the same tag")
			}
		}
		if s.count() != 2 {
			t.Errorf("%d polls", s.count())
		}
		// However many tags there are, the first few are looked at.
		many := strings.Repeat(`W/"`+eventID{1, 1, 1}.String()+`",`, maxKnown-1)
		last := waiting[0].header.Get("ETag")
		s.longPoll(s.h, 0, many+last).expect(t, 304, "", 80*time.Second, began)
		s.longPoll(s.h, 0, many+many+last).expect(t, 200, `{"n":2}`, 80*time.Second, began)

		gone := s.longPoll(s.h, 60, waiting[0].header.Get("ETag"))
		synctest.Wait()
		gone.leave()
		gone.expect(t, 0, "", 80*time.Second, began)
		s.close(stream)
	})
}

// Another life of the log knows the document by its digest.
func TestLongPollAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tag := func(n uint64) string {
			return `W/"` + eventID{77, n, digestOf([]byte(`{"n":1}`))}.String() + `"`
		}
		s := newSite(t, new(Handler))
		began := time.Now()
		s.longPoll(s.h, 5, tag(9)).expect(t, 304, "", 5*time.Second, began)
		s.setAnswer(answering(`{"n":2}`))
		s.waitForPolls(2)
		began = time.Now()
		s.longPoll(s.h, 5, tag(9)).expect(t, 200, `{"n":2}`, 0, began)
		s.close()
	})
}

// The wait includes the one for the first poll, and ends before the server's own limit.
func TestLongPollsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, server: &caddyhttp.Server{WriteTimeout: caddy.Duration(10 * time.Second)}}
		slow := func(w http.ResponseWriter, r *http.Request) error {
			time.Sleep(4 * time.Second)
			_, err := w.Write([]byte(`{"n":1}`))
			return err
		}
		s.setAnswer(slow)
		s.h = s.provision(new(Handler))
		tag := `W/"` + eventID{77, 1, digestOf([]byte(`{"n":1}`))}.String() + `"`
		began := time.Now()
		s.longPoll(s.h, 5, tag).expect(t, 304, "", 5*time.Second, began)
		began = time.Now()
		c := s.longPoll(s.h, 60, tag)
		<-c.done
		if d := time.Since(began); c.status != 304 || d > 9500*time.Millisecond || d < 8*time.Second {
			t.Errorf("%d after %v", c.status, d)
		}
		s.close()
	})
}

// While there is no document a long-poll waits for one, and is told to come back.
func TestLongPollWithoutADocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second), Retry: retry{Min: caddy.Duration(1500 * time.Millisecond), Max: caddy.Duration(1500 * time.Millisecond)}})
		s.setAnswer(status(503))
		began := time.Now()
		c := s.longPoll(s.h, 8, "")
		c.expect(t, 503, "", 8*time.Second, began)
		if c.header.Get("Retry-After") != "2" || c.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v", c.header)
		}
		c = s.longPoll(s.h, 60, "")
		synctest.Wait()
		s.setAnswer(answering("1"))
		<-c.done
		if c.status != 200 || c.text() != "1" {
			t.Errorf("%d %q", c.status, c.text())
		}
		s.close()
	})
}

// What the upstream refuses is told by its own answer.
func TestLongPollPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		refuse := func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(401)
			fmt.Fprint(w, r.Header.Get("Prefer"))
			return nil
		}
		s.setAnswer(refuse)
		began := time.Now()
		s.longPoll(s.h, 60, "").expect(t, 401, "wait=60", 0, began)
		if s.resources() != 0 {
			t.Error("something lingers")
		}
		s.setAnswer(answering("1"))
		c := s.longPoll(s.h, 60, "")
		<-c.done
		c = s.longPoll(s.h, 60, c.header.Get("ETag")) // a withdrawal in the midst of it
		synctest.Wait()
		s.setAnswer(refuse)
		<-c.done
		if c.status != 401 || c.text() != "wait=60" {
			t.Errorf("%d %q", c.status, c.text())
		}
		s.close()
	})
}

// What is no document is sent to a long-poll as it is, but not in place of one.
func TestLongPollOfNoDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(answering("<html>"))
		began := time.Now()
		s.longPoll(s.h, 10, "").expect(t, 200, "<html>", 0, began)
		s.setAnswer(answering("1"))
		c := s.longPoll(s.h, 10, "")
		c.expect(t, 200, "1", 0, began)
		s.setAnswer(answering("<html>"))
		s.waitForPolls(1)
		began = time.Now()
		s.longPoll(s.h, 10, c.header.Get("ETag")).expect(t, 304, "", 10*time.Second, began)
		s.close()
	})
}

func TestLongPollsAreLimitedAndDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{MaxStreams: 2, Drain: caddy.Duration(10 * time.Second)})
		first := s.longPoll(s.h, 1, "")
		<-first.done
		tag := first.header.Get("ETag")
		began := time.Now()
		a, b := s.longPoll(s.h, 60, tag), s.longPoll(s.h, 60, tag)
		synctest.Wait()
		c := s.longPoll(s.h, 60, tag)
		c.expect(t, 503, "", 0, began)
		if seconds := c.header.Get("Retry-After"); len(seconds) != 2 || seconds < "15" || seconds > "60" {
			t.Errorf("come back after %s", seconds)
		}
		s.h.beginDrain()
		for _, c := range []*client{a, b} {
			if <-c.done; c.status != 304 || time.Since(began) > 10*time.Second {
				t.Errorf("%d after %v", c.status, time.Since(began))
			}
		}
		s.close()
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		first := s.longPoll(s.h, 1, "")
		<-first.done
		c := s.longPoll(s.h, 60, first.header.Get("ETag"))
		synctest.Wait()
		s.h.beginExit()
		began := time.Now()
		c.expect(t, 304, "", 0, began)
		s.close()
	})
}

// A long-poll ends while the server lets it answer, and before an unloaded configuration
// has gone.
func TestLongPollsEndWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, server: &caddyhttp.Server{WriteTimeout: caddy.Duration(10 * time.Second)}, answer: answering("1")}
		s.h = s.provision(&Handler{Drain: caddy.Duration(1000 * time.Hour)})
		first := s.longPoll(s.h, 1, "")
		<-first.done
		tag := first.header.Get("ETag")
		began := time.Now()
		c := s.longPoll(s.h, 60, tag)
		if <-c.done; c.status != 304 || time.Since(began) < 8*time.Second || time.Since(began) > 9500*time.Millisecond {
			t.Errorf("%d after %v", c.status, time.Since(began))
		}
		began = time.Now()
		c = s.longPoll(s.h, 5, tag)
		synctest.Wait()
		if s.h.open.any() {
			t.Error("what waits is looked after as if it were written to")
		}
		s.h.beginDrain()
		c.expect(t, 304, "", 5*time.Second, began)
		if s.h.open.any() {
			t.Error("the end of the process waits for what has ended")
		}
		s.close()
	})
}
