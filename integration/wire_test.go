package integration

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestFormatsAndNames(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 10ms\nevent price"))
	for _, protocol := range protocols {
		u.set(numbered(0))
		patch, full := c.open(protocol, "/api/"+protocol, ""), c.open(protocol, "/api/"+protocol+"?sse_format=full", "")
		p, f := c.next(patch), c.next(full)
		if f.Data != numbered(0) || p.Data != `[{"op":"replace","path":"","value":`+numbered(0)+`}]` || p.Type != "price" || f.Type != "price" {
			t.Errorf("%s: %+v, %+v", protocol, p, f)
		}
		u.set(numbered(1))
		p, f = c.next(patch), c.next(full)
		if f.Data != numbered(1) || p.Data != `[{"op":"replace","path":"/n","value":1}]` {
			t.Errorf("%s: %+v, %+v", protocol, p, f)
		}
		merge := c.open(protocol, "/api/"+protocol+"?sse_format=merge", "")
		if m := c.next(merge); m.Data != numbered(1) || m.Type != "snapshot" {
			t.Errorf("%s: %+v", protocol, m)
		}
		patch.close()
		u.set(numbered(2))
		c.next(full)
		m := c.next(merge)
		if m.Data != `{"n":2}` || m.Type != "price" {
			t.Errorf("%s: %+v", protocol, m)
		}
		// An id vouches for a document, not for a format.
		if e := c.next(c.open(protocol, "/api/"+protocol, f.ID)); e.Data != `[{"op":"replace","path":"/n","value":2}]` {
			t.Errorf("%s: after an id of the other format: %.100s", protocol, e.Data)
		}
		if e := c.next(c.open(protocol, "/api/"+protocol+"?last-event-id="+f.ID, "")); e.Data != `[{"op":"replace","path":"/n","value":2}]` {
			t.Errorf("%s: after an id in the query: %.100s", protocol, e.Data)
		}
		u.set(numbered(3))
		c.next(full)
		if e := c.next(c.open(protocol, "/api/"+protocol+"?sse_format=merge", m.ID)); e.Data != `{"n":3}` {
			t.Errorf("%s: after an id of a merge patch: %+v", protocol, e)
		}
		for _, query := range []string{"sse_format=json", "sse_select=/n", "sse_status=very"} {
			s, err := c.connect(protocol, "/api/x?"+query, "")
			if err != nil {
				t.Fatal(err)
			}
			why, _ := io.ReadAll(s.response.Body)
			if s.response.StatusCode != http.StatusBadRequest || !strings.Contains(string(why), query[:len("sse_format")]) {
				t.Errorf("%s: %s: %s, %q", protocol, query, s.response.Status, why)
			}
			s.close()
		}
	}
}

func TestBeginningOfStreams(t *testing.T) {
	const (
		webKit = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15"
		chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
		id     = "Qm7fK2xVw0A-0-JaocOu1x9bM"
	)
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("retry 7s 7s"))
	for _, test := range []struct {
		name, id string
		header   []string
		want     string
	}{
		{"plain", "", nil, ":\nretry: 7000\ndata: "},
		{"Chrome", id, []string{"User-Agent", chrome, "Cache-Control", "no-cache"}, ":\nretry: 7000\ndata: "},
		{"WebKit", id, []string{"User-Agent", webKit, "Cache-Control", "no-cache"}, ":\nid: " + id + "\nevent: _\n\nretry: 7000\ndata: "},
		{"WebKit at first", "", []string{"User-Agent", webKit, "Cache-Control", "no-cache"}, ":\nid: \nevent: _\n\nretry: 7000\ndata: "},
		{"WebKit with garbage", "x", []string{"User-Agent", webKit, "Cache-Control", "no-cache"}, ":\nevent: _\n\nretry: 7000\ndata: "},
		{"fetch in WebKit", id, []string{"User-Agent", webKit, "Cache-Control", "no-cache", "Accept", "text/event-stream, */*"}, ":\nretry: 7000\ndata: "},
	} {
		for _, protocol := range protocols {
			s, err := c.connect(protocol, "/api/x", test.id, test.header...)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(test.want))
			if _, err := io.ReadFull(s.response.Body, got); err != nil || string(got) != test.want {
				t.Errorf("%s over %s: %q (%v), want %q", test.name, protocol, got, err, test.want)
			}
			s.close()
		}
	}
}

// A stream opens before there is a document, and after the fifth second at the
// latest.
func TestOpeningWithoutADocument(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	c := start(t, u.site("interval 20ms"))
	for _, protocol := range protocols {
		u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
		var s *connection
		late := time.Hour
		for try := 0; try < 3 && late > 4*time.Second; try++ { // it may be the machine that takes its time
			began := time.Now()
			s = c.open(protocol, fmt.Sprintf("/api/%s%d", protocol, try), "")
			late = time.Since(began)
		}
		if late > 4*time.Second {
			t.Errorf("%s: opened after %v", protocol, late)
		}
		u.set(numbered(0))
		if e := c.next(s); numberIn(apply(t, nil, e.Data)) != 0 {
			t.Errorf("%s: event %.100s", protocol, e.Data)
		}
		s.close()
	}
}

func TestHeartbeats(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("heartbeat 50ms"))
	for _, protocol := range protocols {
		s := c.open(protocol, "/api/x", "")
		c.next(s)
		lines := bufio.NewReader(s.response.Body)
		timer := time.AfterFunc(patience, s.cancel)
		for range 3 {
			if line, err := lines.ReadString('\n'); err != nil || line != ":\n" {
				t.Errorf("%s: %q (%v)", protocol, line, err)
			}
		}
		timer.Stop()
	}
}

// Documents far above a chunk arrive whole, in lines that clients can take.
func TestLargeDocuments(t *testing.T) {
	document := func(n int) string {
		items := make([]string, 20_000)
		for i := range items {
			items[i] = fmt.Sprintf(`{"id":%d,"n":%d,"name":"item, number [%d]"}`, i, n, i)
		}
		return `{"n":` + fmt.Sprint(n) + `,"items":[` + strings.Join(items, ",") + `]}`
	}
	u := newUpstream(t, document(0))
	c := start(t, u.site("interval 20ms"))
	for _, protocol := range protocols {
		u.set(document(0))
		s := c.open(protocol, "/api/"+protocol, "")
		for n := range 3 {
			u.set(document(n))
			for {
				e := c.next(s)
				for line := range strings.Lines(e.Data) {
					if len(line) > 64<<10 {
						t.Errorf("line of %d bytes", len(line))
					}
				}
				if numberIn(apply(t, nil, e.Data)) == n {
					break
				}
			}
		}
		s.close()
	}
}

func TestOverload(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("max_pollers 1\nmax_streams 2"))
	for _, protocol := range protocols {
		a := c.open(protocol, "/api/a", "")
		c.next(a)
		tooMuch := func(path string) {
			t.Helper()
			s := c.open(protocol, path, "")
			if _, err := s.Next(); err != io.EOF || s.Retry < 15*time.Second || s.Retry > time.Minute {
				t.Errorf("%s: %v, retry %v", protocol, err, s.Retry)
			}
		}
		tooMuch("/api/b")
		a2 := c.open(protocol, "/api/a", "")
		c.next(a2)
		tooMuch("/api/a")
		a.close()
		a2.close()
		c.eventually("the streams are gone", func() bool { // also for the limits, which a stream leaves last
			return c.metric("caddy_poll_sse_streams") == 0 && !strings.Contains(c.goroutines(), "caddy-poll-sse.(*Handler).ServeHTTP")
		})
	}
	for _, limit := range []string{"max_pollers", "max_streams"} {
		if got := c.metric(`caddy_poll_sse_refusals_total{limit="` + limit + `"}`); got != len(protocols) {
			t.Errorf("%d refusals by %s", got, limit)
		}
		if !strings.Contains(c.log.String(), `"limit":"`+limit+`"`) {
			t.Errorf("%s is not logged", limit)
		}
	}
}

func TestMaxAgeEndsStreamsCleanly(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("max_age 300ms"))
	for _, protocol := range protocols {
		s := c.open(protocol, "/api/x", "")
		id := c.next(s).ID
		if _, err := c.tryNext(s); err != io.EOF {
			t.Errorf("%s: the stream ended with %v", protocol, err)
		}
		back := c.open(protocol, "/api/x", id)
		if e, err := c.tryNext(back); err != io.EOF {
			t.Errorf("%s: nothing has changed, but the client is sent %.100s (%v)", protocol, e.Data, err)
		}
	}
}

// Options that work upon the document work together, over a real connection.
func TestPartsAndIgnoredMembers(t *testing.T) {
	document := `{"meta":{"at":%d},"data":{"at":%d,"lists":[{"stations":[%s]}],"note":"` + filler + `"}}`
	station := func(code string, n int) string {
		return fmt.Sprintf(`{"id":%d,"code":%q,"n":%d,"note":%q}`, n, code, n, filler)
	}
	u := newUpstream(t, fmt.Sprintf(document, 1, 1, station("a", 1)+","+station("b", 2)+","+station("c", 3)))
	c := start(t, u.site("interval 10ms 50ms\nselect /data\nignore /*/at\nkey /data/lists/*/stations code\nevent change"))
	for _, protocol := range protocols {
		u.set(fmt.Sprintf(document, 1, 1, station("a", 1)+","+station("b", 2)+","+station("c", 3)))
		s := c.open(protocol, "/api/"+protocol, "")
		if e := c.next(s); !strings.Contains(e.Data, `"path":"","value":{"at":1,"lists":[`) || e.Type != "change" {
			t.Errorf("%s: %.300s", protocol, e.Data)
		}
		for i := range 5 {
			u.set(fmt.Sprintf(document, 2+i, 2+i, station("a", 1)+","+station("b", 2)+","+station("c", 3)))
			time.Sleep(60 * time.Millisecond)
		}
		u.set(fmt.Sprintf(document, 8, 9, station("b", 4)+","+station("c", 5)))
		const want = `[{"op":"replace","path":"/at","value":9},{"op":"remove","path":"/lists/0/stations/0"},` +
			`{"op":"replace","path":"/lists/0/stations/0/id","value":4},{"op":"replace","path":"/lists/0/stations/0/n","value":4},` +
			`{"op":"replace","path":"/lists/0/stations/1/id","value":5},{"op":"replace","path":"/lists/0/stations/1/n","value":5}]`
		if e := c.next(s); e.Data != want {
			t.Errorf("%s: %s", protocol, e.Data)
		}
	}
}

// What a client asks for counts where the route rewrites the query too.
func TestRewrittenStreams(t *testing.T) {
	u := newUpstream(t, numbered(7))
	c := start(t, fmt.Sprintf("handle /live {\npoll_sse {\nselectable /n\n}\nrewrite * /v2.json?station=5\nreverse_proxy %s\n}", u.Listener.Addr()))
	for _, protocol := range protocols {
		s := c.open(protocol, "/live?sse_format=full&sse_select=/n", "")
		e := c.next(s)
		if e.Data != "7" || u.lastPoll().RequestURI != "/v2.json?station=5" {
			t.Errorf("%s: %+v, polled %s", protocol, e, u.lastPoll().RequestURI)
		}
		again := c.open(protocol, "/live?sse_format=full&sse_select=/n&sse_status&lastEventId="+e.ID, "")
		if e := c.next(again); e.Type != "status" {
			t.Errorf("%s: %+v", protocol, e)
		}
	}
	if n := c.metric(`caddy_poll_sse_resumes_total{outcome="held"}`); n != len(protocols) {
		t.Errorf("%d streams resumed", n)
	}
}

// A timeout for idle writes, of the server or of a handler around, does not end a stream,
// and other requests on its connection are answered before and after.
func TestIdleTimeoutsAreNotOfStreams(t *testing.T) {
	u := newUpstream(t, numbered(0))
	for name, around := range map[string]string{"": "", "log": "log", "timeouts": "timeouts {\nwrite_timeout 300ms\n}"} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			c := startDocumented(t, port, fmt.Sprintf(`{
				admin off
				servers {
					protocols h1 h2c
					timeouts {
						write_idle 300ms
					}
				}
			}
			%s
			respond /plain plain
			%s
			%s
			}`, site127(port), around, u.site("interval 20ms")))
			url := fmt.Sprintf("http://localhost:%d", port)
			for _, h2 := range []bool{false, true} {
				u.set(numbered(0))
				var protocols http.Protocols
				protocols.SetHTTP1(!h2)
				protocols.SetUnencryptedHTTP2(h2)
				client := &http.Client{Transport: &http.Transport{Protocols: &protocols, MaxConnsPerHost: 1}}
				plain := func() {
					t.Helper()
					response, err := client.Get(url + "/plain")
					if err != nil {
						t.Fatal(err)
					}
					if body, err := io.ReadAll(response.Body); string(body) != "plain" || err != nil {
						t.Errorf("%q, %v", body, err)
					}
					response.Body.Close()
				}
				plain()
				s, err := connectTo(client, fmt.Sprintf("%s/api/x?h2=%v", url, h2), "")
				if err != nil {
					t.Fatal(err)
				}
				c.next(s)
				for n := 1; n < 3; n++ {
					time.Sleep(500 * time.Millisecond)
					u.set(numbered(n))
					if e := c.next(s); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d}`, n)) {
						t.Errorf("over HTTP/2 %v: %.100s", h2, e.Data)
					}
				}
				u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusGone) })
				if _, err := c.tryNext(s); err != io.EOF {
					t.Errorf("over HTTP/2 %v: ended with %v", h2, err)
				}
				s.close()
				plain()
				client.CloseIdleConnections()
			}
		})
	}
}
