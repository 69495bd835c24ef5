package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// echo answers with what was asked for, so that whoever is served can tell.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("Content-Type", "application/json")
	if r.Header.Get("Origin") != "" {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	}
	lines, _ := json.Marshal(r.Header["Authorization"])
	fmt.Fprintf(w, `{"host":%q,"uri":%q,"authorization":%s,"filler":%q}`, r.Host, r.RequestURI, lines, filler)
}

// fate says what became of a request.
func fate(response *http.Response) string {
	switch {
	case strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream"):
		return "stream"
	case response.Header.Get("Preference-Applied") != "":
		return "long-poll"
	case response.Header.Get("X-Method") != "":
		return "passed " + response.Header.Get("X-Method")
	}
	return response.Status
}

// ask sends a request and says what became of it.
func (c *caddy) ask(protocol, method, path, body string, header ...string) string {
	c.t.Helper()
	client, base := c.client(protocol)
	request, err := http.NewRequestWithContext(c.t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body == "" {
		request.Body = nil
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Add(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		c.t.Fatalf("%s %s %s %.200q: %v", protocol, method, path, header, err)
	}
	defer response.Body.Close()
	return fate(response)
}

// Only GET asks for a stream; everything else is for the backend, a CORS preflight too.
func TestOtherMethodsPass(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(echo)
	c := start(t, u.site("interval 50ms"))
	for _, protocol := range protocols {
		for _, method := range []string{"HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "QUERY", "get"} {
			if method == "get" && protocol == "h1" {
				continue // is GET to a client of net/http
			}
			want := "passed " + method
			if got := c.ask(protocol, method, "/api/x?sse_format=evil", "", "Accept", "text/event-stream", "Prefer", "wait=5", "Last-Event-ID", "x",
				"Origin", "https://evil.example", "Access-Control-Request-Method", "GET"); got != want {
				t.Errorf("%s: %s is %s", protocol, method, got)
			}
		}
		if got := c.ask(protocol, "GET", "/api/x", "a body", "Accept", "text/event-stream"); got != "stream" {
			t.Errorf("%s: GET with a body is %s", protocol, got)
		}
	}
}

// Only an Accept that names the type asks for a stream, however it is spelled.
func TestOddAccept(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(echo)
	c := start(t, u.site("interval 50ms"))
	const passed = "passed GET"
	for accept, want := range map[string]string{
		"":                                      passed,
		"*/*":                                   passed,
		"text/*":                                passed,
		"TEXT/EVENT-STREAM":                     "stream",
		"text/event-stream;q=0":                 passed,
		"text/event-stream; Q=0.000":            passed,
		"text/event-stream;q=0.001":             "stream",
		"text/event-stream;q=garbage":           "stream",
		"text/event-stream;q":                   "stream",
		"text/event-stream;charset=\"a,b\";q=0": passed,
		" \ttext/event-stream\t, */*":           "stream",
		",,,text/event-stream,,,":               "stream",
		"text/event-streams":                    passed,
		"xtext/event-stream":                    passed,
		"text/event-stream/x":                   passed,
		"text / event-stream":                   passed,
		`"text/event-stream"`:                   passed,
		`x/y;a="b, text/event-stream,c"`:        passed,
		`x/y;a="b\", text/event-stream"`:        passed,
		`x/y;a="unclosed, text/event-stream`:    passed,
		strings.Repeat("a/b;q=0.1, ", 1000):     passed,
		strings.Repeat("a/b, ", 1000) + "text/event-stream": "stream",
		strings.Repeat(`"\`, 2000):                          passed,
		strings.Repeat(`;`, 10_000):                         passed,
		"text/event-stream" + strings.Repeat(`;q=1`, 2000):  "stream",
	} {
		for _, protocol := range protocols {
			if got := c.ask(protocol, "GET", "/api/x", "", "Accept", accept); got != want {
				t.Errorf("%s: Accept %.80q is %s, not %s", protocol, accept, got, want)
			}
		}
	}
}

// A preference that is none passes; one that is too large is cut.
func TestOddPreferences(t *testing.T) {
	u := newUpstream(t, numbered(0))
	u.setAnswer(echo)
	c := start(t, u.site("interval 50ms"))
	const passed, waits = "passed GET", "long-poll"
	for prefer, want := range map[string]string{
		"wait":                                passed,
		"wait=":                               passed,
		"wait=-1":                             passed,
		"wait=+1":                             passed,
		"wait=1e9":                            passed,
		"wait=0x10":                           passed,
		"wait=1.5":                            passed,
		"wait=99999999999999999999":           passed,
		"wait=NaN":                            passed,
		"waits=1":                             passed,
		"wait=2000000000":                     waits,
		"wait=0":                              waits,
		"WAIT = \"1\"; x=y":                   waits,
		"respond-async, wait=1":               waits,
		"wait=1, wait=garbage":                waits,
		"wait=garbage, wait=1":                passed,
		"x=\"wait=1, wait=2\"":                passed,
		strings.Repeat("wait=1,", 1000):       waits,
		strings.Repeat("x,", 2000) + "wait=1": waits,
	} {
		for _, protocol := range protocols {
			if got := c.ask(protocol, "GET", "/api/x", "", "Prefer", prefer, "If-None-Match", strings.Repeat(`W/"x",`, 1000)+`*,"`); got != want {
				t.Errorf("%s: Prefer %.80q is %s, not %s", protocol, prefer, got, want)
			}
		}
	}
	if got := c.ask("h1", "GET", "/api/x", "", "Prefer", "wait=garbage", "Accept", "text/event-stream"); got != "stream" {
		t.Errorf("a stream with a preference is %s", got)
	}
}

// Parameters of ours are refused only where they say what is not there; whatever the
// others say is for the backend, byte for byte.
func TestOddParameters(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(echo)
	c := start(t, u.site("interval 50ms\nselectable /* /host/*"))
	const refused = "400 Bad Request"
	for query, want := range map[string]string{
		"sse_format=":                                  "stream",
		"sse_format":                                   "stream",
		"sse_format=garbage":                           refused,
		"sse_format=PATCH":                             refused,
		"sse_format=patch&sse_format=garbage":          refused,
		"sse_format=garbage&sse_format=full":           "stream",
		"%73se_format=garbage":                         refused,
		"SSE_Format=full":                              "stream",
		"sse_format=full%00":                           refused,
		"sse_format=%zz":                               refused,
		"sse_select=":                                  "stream",
		"sse_select=garbage":                           refused,
		"sse_select=/host":                             "stream",
		"sse_select=%2Fhost":                           "stream",
		"sse_select=/~1":                               "stream",
		"sse_select=/~2":                               refused,
		"sse_select=/~":                                refused,
		"sse_select=/a/b":                              refused,
		"sse_select=/*":                                "stream",
		"sse_select=/[=]":                              "",
		"sse_select=/[a=":                              "",
		"sse_select=/%0d%0adata:%20evil":               "stream",
		"sse_select=/%ff":                              "", // either way, but it is answered
		"sse_select=/" + strings.Repeat("~1", 500):     "stream",
		"sse_select=/" + strings.Repeat("~1", 5000):    refused,
		"sse_select=" + strings.Repeat("/*", 5000):     refused,
		"sse_select=/" + strings.Repeat("[=]", 3000):   refused,
		"sse_select=" + strings.Repeat("/[id=*]", 100): refused,
		"sse_status=very":                              refused,
		"sse_status=very&sse_format=full":              refused,
		"sse_status&sse_status=0":                      "stream",
		"sse_=1&sse_unknown=2":                         "stream",
		strings.Repeat("&", 10_000):                    "stream",
		strings.Repeat("sse_select=/a&", 700):          "stream",
		"a;b=%zz&%&=&==&a=1&a=1&b[]=\"":                "stream",
	} {
		for _, protocol := range []string{"h1", "h2"} {
			if got := c.ask(protocol, "GET", "/api/x?"+query, "", "Accept", "text/event-stream"); want != "" && got != want {
				t.Errorf("%s: ?%.80s is %s, not %s", protocol, query, got, want)
			}
		}
	}
	if n := c.complaints(); strings.Contains(c.log.String(), "evil") {
		t.Errorf("what clients say is among %d lines of the log", n)
	}
}

// What follows a stream's request on its connection waits for its end, and is answered
// when that was clean.
func TestPipelinedRequests(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(echo)
	c := start(t, u.site("interval 50ms\nmax_age 300ms"))
	conn := c.raw(rawStream("/api/x") + rawStream("/api/y") + "GET /api/z HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")
	r := bufio.NewReader(conn)
	for _, path := range []string{"/api/x", "/api/y"} {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		events := sse.NewReader(response.Body)
		if e, err := events.Next(); err != nil || !strings.Contains(e.Data, path) {
			t.Errorf("%s: %.200s (%v)", path, e.Data, err)
		}
		if e, err := events.Next(); err != io.EOF {
			t.Errorf("%s: then %.200s (%v)", path, e.Data, err)
		}
	}
	response, err := http.ReadResponse(r, nil)
	if err != nil || fate(response) != "passed GET" {
		t.Errorf("then %v (%v)", response, err)
	}
	if late := c.raw(rawStream("/api/x") + strings.Repeat("garbage\r\n", 1000)); !readsAnEvent(late) {
		t.Error("garbage after a request keeps its stream from beginning")
	}
	c.eventually("the streams have ended", func() bool { return c.metric("caddy_poll_sse_streams") == 0 })
}

func readsAnEvent(conn io.Reader) bool {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false
	}
	_, err = sse.NewReader(response.Body).Next()
	return err == nil
}
