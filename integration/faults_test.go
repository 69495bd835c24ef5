package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// faults are what a backend may do instead of answering with one JSON document.
var faults = map[string]http.HandlerFunc{
	"500":           func(w http.ResponseWriter, r *http.Request) { http.Error(w, "oh", 500) },
	"503":           func(w http.ResponseWriter, r *http.Request) { http.Error(w, "oh", 503) },
	"404":           http.NotFound,
	"204":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) },
	"304 unasked":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304) },
	"redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) },
	"html":          body("<!doctype html><title>busy</title>"),
	"empty":         body(""),
	"two documents": body(`{"n":1}{"n":2}`),
	"BOM":           body("\ufeff" + `{"n":1}`),
	"not UTF-8":     body("{\"n\":\"\xff\"}"),
	"20 MB":         body(`"` + strings.Repeat("x", 20<<20) + `"`),
	"10,000 levels": body(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)),
	"truncated": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"n":1,"filler":"`)
		panic(http.ErrAbortHandler)
	},
	"truncated, but valid": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "9")
		io.WriteString(w, `12345`)
		panic(http.ErrAbortHandler)
	},
	"endless": func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `[`)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("1,", 1<<15)); err != nil {
				return
			}
		}
	},
	"slow drip": func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `[`)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	},
	"hang": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"reset": func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	},
	"gzip unasked": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, "\x1f\x8b garbage")
	},
}

func body(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }
}

func TestFaultyUpstream(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms\ntimeout 300ms"))
	s := c.open("h2", "/api/x", "")
	doc := apply(t, nil, c.next(s).Data)
	lines := func(message string) int { return strings.Count(c.log.String(), message) }
	transitions, n := 0, 0
	for name, fault := range faults {
		polls := u.count()
		u.setAnswer(fault)
		transitions++
		c.eventually(name+" is noticed", func() bool { return lines("upstream is stale") == transitions })
		c.eventually(name+" is polled again", func() bool { return u.count() >= polls+3 })
		if got := lines("upstream is stale"); got != transitions {
			t.Errorf("%s: %d lines for one transition", name, got-transitions+1)
		}
		late := c.open("h2", "/api/x", "") // is sent the last good document
		if e := c.next(late); numberIn(apply(t, nil, e.Data)) != n {
			t.Errorf("%s: a new client is sent %.100s", name, e.Data)
		}
		late.close()

		n++
		u.set(numbered(n)) // the stream is still open, and goes on where it was
		e := c.next(s)
		if doc = apply(t, doc, e.Data); numberIn(doc) != n || strings.Contains(e.Data, "filler") {
			t.Fatalf("after %s: event %.100s", name, e.Data)
		}
		c.eventually("recovery is logged", func() bool { return lines("upstream is live again") >= transitions })
		if got := lines("upstream is live again"); got != transitions {
			t.Errorf("%s: %d lines for %d recoveries", name, got, transitions)
		}
	}
	if transitions < 20 {
		t.Errorf("only %d faults", transitions)
	}
	if i := strings.Index(c.log.String(), "oh"); i >= 0 && strings.Contains(c.log.String(), `"filler"`) {
		t.Error("documents are in the log")
	}
}

func TestWithdrawnDocument(t *testing.T) {
	for _, status := range []int{401, 403, 410} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			u := newUpstream(t, numbered(0))
			c := start(t, u.site("interval 20ms"))
			s := c.open("h1", "/api/x", "")
			id := c.next(s).ID
			u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Genuine", "1")
				w.WriteHeader(status)
			})
			if _, err := c.tryNext(s); err != io.EOF {
				t.Errorf("the stream ended with %v", err)
			}
			back, err := c.connect("h1", "/api/x", id)
			if err != nil {
				t.Fatal(err)
			}
			defer back.close()
			if back.response.StatusCode != status || back.response.Header.Get("X-Genuine") != "1" {
				t.Errorf("a returning client is sent %s", back.response.Status)
			}
			u.set(numbered(1)) // and it may come back
			again := c.open("h1", "/api/x", id)
			if e := c.next(again); numberIn(apply(t, nil, e.Data)) != 1 {
				t.Errorf("event %.100s", e.Data)
			}
		})
	}
}
