package pollsse

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestIntervalRunsFromStartToStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(10 * time.Second)})
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			time.Sleep(5 * time.Second) // is part of the interval
			_, err := w.Write([]byte(`1`))
			return err
		})
		c := s.get(s.h, "/")
		s.waitForPolls(50)
		for i := 1; i < len(s.polls); i++ {
			if d := s.polls[i].Sub(s.polls[i-1]); d < 9*time.Second || d > 11*time.Second {
				t.Errorf("%v between polls", d)
			}
		}
		s.close(c)
	})
}

func TestPollsNeverOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(10 * time.Millisecond)})
		running, most := 0, 0
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			s.mu.Lock()
			running++
			most = max(most, running)
			s.mu.Unlock()
			time.Sleep(time.Second)
			s.mu.Lock()
			running--
			s.mu.Unlock()
			_, err := w.Write([]byte(`1`))
			return err
		})
		a, b := s.get(s.h, "/"), s.get(s.h, "/")
		s.waitForPolls(20)
		if most != 1 {
			t.Errorf("%d polls at a time", most)
		}
		s.close(a, b)
	})
}

func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		defer s.close()
		for range 2 { // the second client comes back while the resource lingers
			c := s.get(s.h, "/")
			s.waitForPolls(2)
			c.leave()
			time.Sleep(25 * time.Second)
		}
		before := s.count()
		time.Sleep(4 * time.Second)
		if s.count() == before {
			t.Error("polling ended before the linger time was over")
		}
		time.Sleep(2 * time.Second)
		before = s.count()
		time.Sleep(time.Hour)
		if n := s.count() - before; n != 0 || s.resources() != 0 {
			t.Errorf("%d polls after the linger time", n)
		}
	})
}

func TestNothingLingersWithoutADocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(500); return nil })
		c := s.get(s.h, "/")
		s.waitForPolls(1)
		c.leave()
		<-c.done
		if s.resources() != 0 {
			t.Error("a resource without a document lingers")
		}
		s.close()
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(500); return nil })
		c := s.get(s.h, "/")
		s.waitForPolls(12)
		for i := 1; i < len(s.polls); i++ {
			d, want := s.polls[i].Sub(s.polls[i-1]), min(time.Second<<i, 30*time.Second)
			if d < want/2 || d > want {
				t.Errorf("%v before poll %d, want up to %v", d, i, want)
			}
		}
		s.close(c)

		long := poller{interval: time.Hour, failures: 100}
		if d := long.backoff(); d != time.Hour {
			t.Errorf("backoff of an hourly poll is %v", d)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, c := range []struct {
		status int
		value  func() string
		least  time.Duration
		most   time.Duration
	}{
		{503, func() string { return "120" }, 2 * time.Minute, 2*time.Minute + time.Second},
		{429, func() string { return "120" }, 2 * time.Minute, 2*time.Minute + time.Second},
		{403, func() string { return "120" }, 2 * time.Minute, 2*time.Minute + time.Second},
		{503, func() string { return time.Now().Add(time.Minute).UTC().Format(http.TimeFormat) }, 59 * time.Second, time.Minute},
		{503, func() string { return "86400" }, 10 * time.Minute, 10*time.Minute + time.Second},
		{503, func() string { return "99999999999999999999" }, 10 * time.Minute, 10*time.Minute + time.Second},
		{503, func() string { return "soon" }, 2 * time.Second, 4 * time.Second},
		{503, func() string { return "-5" }, 2 * time.Second, 4 * time.Second},
		{500, func() string { return "120" }, 2 * time.Second, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, new(Handler))
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("Retry-After", c.value())
				w.WriteHeader(c.status)
				return nil
			})
			client := s.get(s.h, "/")
			s.waitForPolls(2)
			if d := s.polls[1].Sub(s.polls[0]); d < c.least || d > c.most {
				t.Errorf("%d, Retry-After %q: next poll after %v", c.status, c.value(), d)
			}
			s.close(client)
		})
	}
}

func TestConditionalRequests(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, c := range []struct{ name, etag, modified, date, wantINM, wantIMS string }{
		{"none", "", "", at(0), "", ""},
		{"ETag", `W/"a,b"`, at(-time.Hour), at(0), `W/"a,b"`, ""},
		{"ETag that means any", `*`, at(-time.Hour), at(0), "", at(-time.Hour)},
		{"old Last-Modified", "", at(-2 * time.Second), at(0), "", at(-2 * time.Second)},
		{"Last-Modified within its second", "", at(-time.Second), at(0), "", ""},
		{"Last-Modified without Date", "", at(-time.Hour), "", "", ""},
		{"bad Last-Modified", "", "yesterday", at(0), "", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, new(Handler))
			var seen []http.Header
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				seen = append(seen, r.Header.Clone())
				for name, v := range map[string]string{"ETag": c.etag, "Last-Modified": c.modified, "Date": c.date} {
					if v != "" {
						w.Header().Set(name, v)
					}
				}
				_, err := w.Write([]byte(`1`))
				return err
			})
			client := s.get(s.h, "/")
			s.waitForPolls(3)
			for i, h := range seen {
				inm, ims := h.Get("If-None-Match"), h.Get("If-Modified-Since")
				if i == 0 && inm+ims != "" || i > 0 && (inm != c.wantINM || ims != c.wantIMS) {
					t.Errorf("%s: poll %d with If-None-Match %q, If-Modified-Since %q", c.name, i, inm, ims)
				}
			}
			s.close(client)
		})
	}
}

func TestWhatIsGood(t *testing.T) {
	write := func(body string, header ...string) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			_, err := io.WriteString(w, body)
			return err
		}
	}
	status := func(code int) caddyhttp.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(code); return nil }
	}
	for name, c := range map[string]struct {
		answer caddyhttp.HandlerFunc
		kind   pollKind
		cause  string
	}{
		"document":           {write(` {"a" : 1} `), pollChanged, ""},
		"same bytes":         {write(`"held"`), pollUnchanged, ""},
		"asked 304":          {status(304), pollNotModified, ""},
		"after 103":          {func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(103); return write(`1`)(w, r) }, pollChanged, ""},
		"right length":       {write(`1`, "Content-Length", "1"), pollChanged, ""},
		"wrong length":       {write(`1`, "Content-Length", "2"), pollRejected, "incomplete"},
		"identity":           {write(`1`, "Content-Encoding", "identity"), pollChanged, ""},
		"Identity":           {write(`1`, "Content-Encoding", "Identity"), pollChanged, ""},
		"gzip unasked":       {write(`1`, "Content-Encoding", "gzip"), pollRejected, "encoded"},
		"html":               {write(`<html>`), pollRejected, "invalid"},
		"empty":              {write(``), pollRejected, "invalid"},
		"two documents":      {write(`{}{}`), pollRejected, "invalid"},
		"byte order mark":    {write("\ufeff{}"), pollRejected, "invalid"},
		"not UTF-8":          {write("\"\xff\""), pollRejected, "invalid"},
		"too deep":           {write(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)), pollRejected, "invalid"},
		"too large":          {write(`"` + strings.Repeat("x", 2000) + `"`), pollRejected, "too_large"},
		"200 without a body": {status(200), pollRejected, "invalid"},
		"204":                {status(204), pollFailed, "status"},
		"000":                {func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(0); return write(`1`)(w, r) }, pollFailed, "status"},
		"042":                {func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(42); return write(`1`)(w, r) }, pollFailed, "status"},
		"101":                {func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(101); return write(`1`)(w, r) }, pollFailed, "status"},
		"302":                {status(302), pollFailed, "redirect"},
		"500":                {status(500), pollFailed, "status"},
		"500 with much to say": {func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(500)
			return write(strings.Repeat("x", 1<<20))(w, r)
		}, pollFailed, "status"},
		"error":    {func(http.ResponseWriter, *http.Request) error { return io.ErrUnexpectedEOF }, pollFailed, "error"},
		"panic":    {func(http.ResponseWriter, *http.Request) error { panic("oh") }, pollFailed, "error"},
		"aborted":  {func(w http.ResponseWriter, r *http.Request) error { write(`[1]`)(w, r); panic(http.ErrAbortHandler) }, pollRejected, "incomplete"},
		"hang":     {func(w http.ResponseWriter, r *http.Request) error { <-r.Context().Done(); return r.Context().Err() }, pollFailed, "timeout"},
		"silence":  {func(http.ResponseWriter, *http.Request) error { return nil }, pollFailed, "unanswered"},
		"streams":  {write("data: 1\n\n", "Content-Type", "Text/Event-Stream; charset=utf-8"), pollNative, "native"},
		"late err": {func(w http.ResponseWriter, r *http.Request) error { write(`1`)(w, r); return io.ErrUnexpectedEOF }, pollRejected, "incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, new(Handler))
				defer s.close()
				src := &source{&Handler{generation: 1, logger: s.h.logger}, c.answer, s.server, nil}
				p := poller{target: target{uri: "/", originalURI: "/"}, timeout: time.Second, maxBody: 20_000}
				if name == "too large" {
					p.maxBody = 1000
				}
				p.validators, p.generation = validators{etag: `"1"`}, 1
				held := parse(t, `"held"`)
				p.held = held
				result := p.poll(t.Context(), src)
				if result.kind != c.kind || result.cause != c.cause {
					t.Errorf("%s %q (%v), want %s %q", result.kind, result.cause, result.err, c.kind, c.cause)
				}
				if (result.document != nil) != (c.kind == pollChanged || c.kind == pollUnchanged) {
					t.Errorf("document %v", result.document)
				}
				if (result.document == held) != (c.kind == pollUnchanged) || result.changed != (c.kind == pollChanged) {
					t.Errorf("%s: changed %v, document %v", result.kind, result.changed, result.document)
				}
				src.handler.generation = 2 // validators of another source are not used
				if name == "asked 304" {
					if result := p.poll(t.Context(), src); result.cause != "unasked_304" {
						t.Errorf("304 to another source: %s %q", result.kind, result.cause)
					}
				}
			})
		})
	}
}

// The log says what to do about an answer that is no document.
func TestErrorsSayWhatIsWrong(t *testing.T) {
	s := newSite(t, new(Handler))
	defer s.close()
	for body, want := range map[string]string{
		`"` + strings.Repeat("x", 20) + `"`: "larger than max_body (10 bytes)",
		`<html>`:                            `(6 bytes, Content-Type: "text/html")`,
		``:                                  `(0 bytes, Content-Type: "text/html")`,
	} {
		answer := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "text/html")
			_, err := io.WriteString(w, body)
			return err
		})
		p := poller{target: target{uri: "/", originalURI: "/"}, timeout: time.Minute, maxBody: 10}
		result := p.poll(t.Context(), &source{&Handler{logger: s.h.logger}, answer, s.server, nil})
		if result.err == nil || !strings.Contains(result.err.Error(), want) {
			t.Errorf("%q: %v, want %s", body, result.err, want)
		}
	}
}

func TestEqualValuesMakeNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		spellings := []string{`{"a":1,"b":[]}`, `{"a":1,"b":[]}`, ` {"b": [], "a":1}`, `{"\u0061":1,"b":[]}`, `{"a":1.0,"b":[]}`}
		n := 0
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			n = min(n+1, len(spellings))
			_, err := io.WriteString(w, spellings[n-1])
			return err
		})
		c := s.get(s.h, "/")
		s.waitForPolls(len(spellings) + 2)
		if e := c.events(); len(e) != 2 || !strings.Contains(e[1].Data, "1.0") {
			t.Errorf("%q", c.text())
		}
		s.close(c)
	})
}

func TestTransitionsAreLoggedOnce(t *testing.T) {
	// Counted by what settle decides on; the lines are looked at in integration/.
	r := resource{polled: make(chan struct{})}
	lines := new(logCounter)
	src := &source{handler: &Handler{generation: 1, logger: lines.logger()}}
	good, bad := pollResult{kind: pollChanged}, pollResult{kind: pollFailed, cause: "status", status: 500}
	for i, step := range []struct {
		result pollResult
		lines  int
	}{{good, 0}, {good, 0}, {bad, 1}, {bad, 1}, {pollResult{kind: pollRejected, cause: "invalid"}, 1}, {good, 2}, {good, 2}, {bad, 3}} {
		r.settle(t.Context(), src, step.result)
		if lines.n != step.lines {
			t.Errorf("step %d: %d lines, want %d", i, lines.n, step.lines)
		}
	}
}

func TestJitter(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		d := jitter(time.Second)
		least, most = min(least, d), max(most, d)
	}
	if least < 900*time.Millisecond || most > 1100*time.Millisecond || least > 910*time.Millisecond || most < 1090*time.Millisecond {
		t.Errorf("from %v to %v", least, most)
	}
	if d := fmt.Sprint(jitter(1)); d != "1ns" {
		t.Errorf("jitter of a nanosecond: %s", d)
	}
}

func TestRetryAfterOfNoTime(t *testing.T) {
	for _, value := range []string{"0", "Mon, 01 Jan 2001 00:00:00 GMT"} {
		d := retryAfter(403, http.Header{"Retry-After": {value}})
		if d <= 0 || (pollResult{status: 403, retryAfter: d}).withdrawn() {
			t.Errorf("403 with Retry-After %q withdraws the document", value)
		}
	}
}

// A 304 repeats what it pleases of the header: what was sent with the document counts.
func TestNotModifiedKeepsValidators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		var asked []string
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			asked = append(asked, r.Header.Get("If-None-Match"))
			if len(asked) > 1 {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
			w.Header().Set("ETag", `"1"`)
			return answering(`1`)(w, r)
		})
		c := s.get(s.h, "/")
		s.waitForPolls(4)
		if got := strings.Join(asked, " "); !strings.HasPrefix(got, ` "1" "1" "1"`) {
			t.Errorf("asked with %s", got)
		}
		s.close(c)
	})
}

// An upstream that refuses what it has once sent as an ETag is asked without it.
func TestRefusedValidatorsAreDropped(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusInternalServerError} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, new(Handler))
			n := 0
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				if r.Header.Get("If-None-Match") != "" {
					w.WriteHeader(status)
					return nil
				}
				n++
				w.Header().Set("ETag", `"1"`)
				_, err := fmt.Fprint(w, n)
				return err
			})
			client := s.get(s.h, "/")
			s.waitForPolls(7) // each good one is followed by two that are refused
			if got := client.events(); len(got) != 3 {
				t.Errorf("status %d: %d events of 3", status, len(got))
			}
			s.close(client)
		})
	}
}

func TestBackoffBeginsAnewAfterAGoodPoll(t *testing.T) {
	p := poller{interval: time.Second}
	now := time.Now()
	for range 5 {
		p.next(now, pollResult{kind: pollFailed, status: 500})
	}
	p.next(now, pollResult{kind: pollNotModified})
	if at, _ := p.next(now, pollResult{kind: pollFailed, status: 500}); time.Until(at) > 2*time.Second {
		t.Errorf("next poll after %v", time.Until(at))
	}
	for range 1000 { // never sooner than without a failure
		p := poller{interval: 20 * time.Second, failures: 1}
		if d := p.backoff(); d < p.interval || d > maxBackoff {
			t.Fatalf("backoff of %v", d)
		}
	}
}

func TestRecorder(t *testing.T) {
	s := newSite(t, new(Handler))
	defer s.close()
	for _, c := range []struct {
		name   string
		answer caddyhttp.HandlerFunc
		kind   pollKind
	}{
		{"trailer", func(w http.ResponseWriter, r *http.Request) error {
			err := answering(`12345`)(w, r)
			w.Header().Set("Content-Encoding", "x")
			w.Header().Set("Content-Length", "9")
			return err
		}, pollChanged},
		{"as large as may be", answering(`1234567890`), pollChanged},
		{"one byte more", answering(`12345678901`), pollRejected},
		{"404 as a stream", func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(404)
			return nil
		}, pollFailed},
	} {
		p := poller{target: target{uri: "/", originalURI: "/"}, timeout: time.Minute, maxBody: 10}
		if result := p.poll(t.Context(), &source{s.h, c.answer, s.server, nil}); result.kind != c.kind {
			t.Errorf("%s: %s %s", c.name, result.kind, result.cause)
		}
	}
}

func TestPollsTakeNoLongerThanTheyMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		defer s.close()
		began := time.Now()
		p := poller{target: target{uri: "/", originalURI: "/"}, timeout: time.Second, maxBody: 10}
		p.poll(t.Context(), &source{s.h, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			return r.Context().Err()
		}), s.server, nil})
		if d := time.Since(began); d != time.Second {
			t.Errorf("%v", d)
		}
		// An endless error page is not read to its end.
		w := &recorder{header: make(http.Header), limit: 1 << 30, abort: func() {}}
		w.WriteHeader(500)
		var err error
		for range 100 {
			if _, err = w.Write([]byte(strings.Repeat("x", 1<<10))); err != nil {
				break
			}
		}
		if err == nil {
			t.Error("100 KiB of an error page were read")
		}
	})
}

func TestPollsUseKeys(t *testing.T) {
	item := func(id, code, n int) string {
		return fmt.Sprintf(`{"id":%d,"code":%d,"f":{"a":"%0500d","n":%d}}`, id, code, code, n)
	}
	old := "[" + item(1, 1, 0) + "," + item(2, 2, 0) + "," + item(3, 3, 0) + "]"
	new := "[" + item(8, 2, 1) + "," + item(9, 3, 1) + "]"
	h := &Handler{Key: []arrayKey{{Pointer: "", Member: "code"}}}
	h.setDefaults()
	r := newResource(h, target{}, "")
	defer r.close()
	p := &r.poller
	p.held = parse(t, old)
	rec := &recorder{header: make(http.Header), status: http.StatusOK, body: []byte(new)}
	result := p.judge(t.Context(), rec, nil)
	if result.kind != pollChanged || !result.changed || !strings.HasPrefix(string(result.patch), `[{"op":"remove","path":"/0"},`) {
		t.Errorf("%+v, %s", result, result.patch)
	}
}

func TestIntervalAdapts(t *testing.T) {
	const s = time.Second
	p := &poller{interval: 2 * s, maxInterval: 20 * s}
	for i, c := range []struct {
		news  bool
		fresh time.Duration
		want  time.Duration
	}{
		{true, 0, 2 * s},
		{false, 0, 3 * s},
		{false, 0, 4500 * time.Millisecond},
		{true, 0, 2 * s},
		{false, 10 * s, 10 * s},
		{true, 10 * s, 10 * s},
		{false, 0, 15 * s},
		{false, 0, 20 * s},
		{false, 0, 20 * s},
		{true, time.Hour, 20 * s},
		{true, s, 2 * s},
	} {
		if p.adapt(pollResult{news: c.news, fresh: c.fresh}); p.current != c.want {
			t.Errorf("step %d: %v, want %v", i, p.current, c.want)
		}
	}
	for range 10 { // polls because of writes
		p.adapt(pollResult{instant: true})
	}
	if p.current != 2*s {
		t.Errorf("writes make it %v", p.current)
	}
	p = &poller{interval: 2 * s, maxInterval: 2 * s}
	for _, r := range []pollResult{{news: true}, {}, {}, {fresh: time.Hour}} {
		if p.adapt(r); p.current != 2*s {
			t.Errorf("one interval becomes %v", p.current)
		}
	}
}

func TestFreshness(t *testing.T) {
	for _, c := range []struct {
		header http.Header
		want   time.Duration
	}{
		{http.Header{}, 0},
		{http.Header{"Cache-Control": {"max-age=60"}}, time.Minute},
		{http.Header{"Cache-Control": {"max-age=60"}, "Age": {"50"}}, 10 * time.Second},
		{http.Header{"Cache-Control": {"max-age=60"}, "Age": {"60"}}, 0},
		{http.Header{"Cache-Control": {"max-age=60"}, "Age": {"90"}}, 0},
		{http.Header{"Cache-Control": {"max-age=60"}, "Age": {"-90"}}, time.Minute},
		{http.Header{"Cache-Control": {"max-age=60"}, "Age": {"x"}}, time.Minute},
		{http.Header{"Cache-Control": {`public, Max-Age="60"`}}, time.Minute},
		{http.Header{"Cache-Control": {"public", "max-age=60"}}, time.Minute},
		{http.Header{"Cache-Control": {"max-age=60, max-age=5"}}, time.Minute},
		{http.Header{"Cache-Control": {`private="a, max-age=3", max-age=60`}}, time.Minute},
		{http.Header{"Cache-Control": {"s-maxage=60"}}, 0},
		{http.Header{"Cache-Control": {"max-age=60, no-cache"}}, 0},
		{http.Header{"Cache-Control": {"no-store, max-age=60"}}, 0},
		{http.Header{"Cache-Control": {"max-age=0"}}, 0},
		{http.Header{"Cache-Control": {"max-age=-5"}}, 0},
		{http.Header{"Cache-Control": {"max-age=soon"}}, 0},
		{http.Header{"Cache-Control": {"max-age"}}, 0},
		{http.Header{"Cache-Control": {"max-age=9999999999999999999999"}}, math.MaxInt32 * time.Second},
		{http.Header{"Cache-Control": {"max-age=9000000000000000000"}}, math.MaxInt32 * time.Second},
	} {
		if got := freshness(c.header); got != c.want {
			t.Errorf("%v: %v, want %v", c.header, got, c.want)
		}
	}
}

// Polls of a document that stays the same become rare, an event makes them frequent
// again, and what is ignored does not.
func TestAdaptivePolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second), MaxInterval: caddy.Duration(time.Minute), Ignore: []string{"/t"}})
		var mu sync.Mutex
		n, cacheControl := 0, ""
		set := func(to int, control string) {
			mu.Lock()
			defer mu.Unlock()
			n, cacheControl = to, control
		}
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			mu.Lock()
			defer mu.Unlock()
			w.Header().Set("Cache-Control", cacheControl)
			w.Header().Set("ETag", `"1"`)
			if cacheControl != "" && r.Header.Get("If-None-Match") != "" {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
			_, err := fmt.Fprintf(w, `{"t":%d,"n":%d}`, time.Now().UnixNano(), n)
			return err
		})
		gap := func(polls int) time.Duration { // before the last one of so many
			s.waitForPolls(polls)
			last := s.polls[len(s.polls)-1]
			return last.Sub(s.polls[len(s.polls)-2])
		}
		within := func(d, want time.Duration) {
			t.Helper()
			if d < want*9/10-time.Millisecond || d > want*11/10+time.Millisecond {
				t.Errorf("interval of %v, want %v", d, want)
			}
		}
		c := s.get(s.h, "/")
		synctest.Wait()
		within(gap(1), time.Second)
		within(gap(1), 1500*time.Millisecond)
		within(gap(20), time.Minute)
		set(1, "")
		s.waitForPolls(1)
		within(gap(1), time.Second)
		within(gap(1), 1500*time.Millisecond)
		set(1, "max-age=20")
		s.waitForPolls(1)
		for range 5 {
			if d := gap(1); d < 20*time.Second || d > 22*time.Second {
				t.Errorf("fresh for 20s, but polled after %v", d)
			}
		}
		if n := len(c.events()); n != 2 {
			t.Errorf("%d events", n)
		}
		s.close(c)
	})
}

// What is fresh is not asked for before that is over, by no poller at the same time; what
// is not is asked for around its interval.
func TestPollsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		for fresh, want := range map[time.Duration][2]time.Duration{0: {27 * s, 33 * s}, 30 * s: {30 * s, 33 * s}} {
			least, most := time.Hour, time.Duration(0)
			for range 1000 {
				p := &poller{interval: s, current: 20 * s, maxInterval: time.Minute}
				at, _ := p.next(time.Now(), pollResult{kind: pollChanged, fresh: fresh})
				least, most = min(least, time.Until(at)), max(most, time.Until(at))
			}
			if least < want[0] || least > want[0]+s/10 || most > want[1] || most < want[1]-s/10 {
				t.Errorf("fresh for %v: from %v to %v", fresh, least, most)
			}
		}
	})
}
