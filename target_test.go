package pollsse

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// received makes a request as Caddy passes it to handlers, and lets the route
// change it.
func received(t *testing.T, uri string, change func(*http.Request)) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, uri, http.NoBody)
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, new(caddyhttp.Server))
	if change != nil {
		change(r)
	}
	return r
}

func TestKeys(t *testing.T) {
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Add(name, value) }
	}
	variable := func(name string, v any) func(*http.Request) {
		return func(r *http.Request) { caddyhttp.SetVar(r.Context(), name, v) }
	}
	const uri = "http://Example.com/a/b?x=1&y=%32"
	base := new(Handler)
	forwarding := &Handler{ForwardHeader: []string{"Authorization", "X-A"}}
	for _, c := range []struct {
		name   string
		h      *Handler
		uri    string
		change func(*http.Request)
		same   bool
	}{
		{"itself", base, uri, nil, true},
		{"host in lower case", base, "http://example.com/a/b?x=1&y=%32", nil, true},
		{"our parameters", base, "http://example.com/a/b?sse_format=full&x=1&LastEventID=7&y=%32&last_event_id=&last-event-id=9&sse%5Fzzz=1", nil, true},
		{"a cookie that is not forwarded", base, uri, header("Cookie", "a=b"), true},
		{"Authorization that is not forwarded", base, uri, header("Authorization", "me"), true},
		{"another address", base, uri, func(r *http.Request) { r.RemoteAddr = "10.0.0.1:1" }, true},
		{"Caddy's own variables", base, uri, variable("uuid", "123"), true},
		{"another host", base, "http://example.org/a/b?x=1&y=%32", nil, false},
		{"another port", base, "http://example.com:81/a/b?x=1&y=%32", nil, false},
		{"another path", base, "http://example.com/a/c?x=1&y=%32", nil, false},
		{"an escaped slash", base, "http://example.com/a%2Fb?x=1&y=%32", nil, false},
		{"another query", base, "http://example.com/a/b?x=2&y=%32", nil, false},
		{"another order", base, "http://example.com/a/b?y=%32&x=1", nil, false},
		{"another spelling", base, "http://example.com/a/b?x=1&y=2", nil, false},
		{"TLS", base, uri, func(r *http.Request) { r.TLS = new(tls.ConnectionState) }, false},
		{"a rewrite", base, uri, func(r *http.Request) { r.URL.Path = "/z" }, false},
		{"a variable of the route", base, uri, variable("tenant", "7"), false},
		{"forwarded Authorization", forwarding, uri, header("Authorization", "me"), false},
		{"two forwarded values", forwarding, uri, func(r *http.Request) { r.Header["X-A"] = []string{"1", "2"} }, false},
	} {
		for _, h := range []*Handler{base, forwarding} {
			h.setDefaults()
		}
		key := c.h.newTarget(received(t, uri, nil)).key()
		other := c.h.newTarget(received(t, c.uri, c.change)).key()
		if (key == other) != c.same {
			t.Errorf("%s: same key %v", c.name, key == other)
		}
	}

	rewritten := base.newTarget(received(t, "/a", func(r *http.Request) { r.URL.Path = "/z" })).key()
	if rewritten == base.newTarget(received(t, "/z", nil)).key() {
		t.Error("requests that were rewritten to one URL share its key, though the route sees where they came from")
	}
	a := forwarding.newTarget(received(t, uri, func(r *http.Request) { r.Header["X-A"] = []string{"1", "2"} })).key()
	b := forwarding.newTarget(received(t, uri, func(r *http.Request) { r.Header["X-A"] = []string{"12"} })).key()
	if a == b {
		t.Error("joined header values make the same key")
	}
}

func TestQueryOption(t *testing.T) {
	for _, c := range []struct {
		query []string
		want  string
	}{
		{[]string{"*"}, "/p?a=1&b=2&&a=%33&none=4"},
		{[]string{"none"}, "/p"},
		{[]string{"a"}, "/p?a=1&a=%33"},
		{[]string{"b", "c"}, "/p?b=2"},
	} {
		h := &Handler{Query: c.query}
		h.setDefaults()
		got := h.newTarget(received(t, "/p?a=1&sse_format=full&b=2&&a=%33&none=4", nil))
		if got.uri != c.want || got.originalURI != c.want {
			t.Errorf("query %q: %q, %q; want %q", c.query, got.uri, got.originalURI, c.want)
		}
	}
}

// What a poll says is in the key, and nothing else.
func TestPollCarriesNothingOfTheClient(t *testing.T) {
	h := &Handler{ForwardHeader: []string{"authorization"}}
	h.setDefaults()
	r := received(t, "https://example.com/a/b?x=1&sse_format=full", func(r *http.Request) {
		for _, name := range []string{"Cookie", "X-Forwarded-For", "Range", "If-None-Match", "Last-Event-ID", "Accept-Encoding", "Origin"} {
			r.Header.Set(name, "secret")
		}
		r.Header.Set("Authorization", "mine")
		r.RemoteAddr = "127.0.0.1:1234"
		caddyhttp.SetVar(r.Context(), "tenant", "7")
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "127.0.0.1")
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.auth.user.id", "me")
		r.URL.Path = "/rewritten"
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	poll, err := h.newTarget(r).newRequest(ctx, new(caddyhttp.Server), httptest.NewRecorder())
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Accept": {"application/json"}, "Authorization": {"mine"}, "User-Agent": {userAgent}}
	for name := range poll.Header {
		if len(want[name]) == 0 || poll.Header.Get(name) != want[name][0] {
			t.Errorf("poll has %s: %q", name, poll.Header[name])
		}
	}
	if len(poll.Header) != len(want) {
		t.Errorf("poll has %v", poll.Header)
	}
	repl := poll.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for text, want := range map[string]string{
		"{http.request.remote.host}":             "192.0.2.1",
		"{http.vars.client_ip}":                  "192.0.2.1",
		"{http.vars.tenant}":                     "7",
		"{http.auth.user.id}":                    "",
		"{http.request.uri}":                     "/rewritten?x=1",
		"{http.request.orig_uri}":                "/a/b?x=1",
		"{http.request.scheme}":                  "https",
		"{http.request.host}":                    "example.com",
		"{http.request.header.Cookie}":           "",
		"{http.request.tls.client.subject}":      "",
		"{http.request.uri.query.sse_format}":    "",
		"{http.request.orig_uri.query}":          "x=1",
		"{http.request.method}":                  "GET",
		"{http.request.header.Authorization}":    "mine",
		"{http.request.uri.path}":                "/rewritten",
		"{http.request.header.X-Forwarded-For}":  "",
		"{http.request.header.Last-Event-ID}":    "",
		"{http.request.header.Accept-Encoding}":  "",
		"{http.request.header.If-None-Match}":    "",
		"{http.request.header.Range}":            "",
		"{http.request.remote.port}":             "0",
		"{http.request.orig_uri.path}":           "/a/b",
		"{http.request.header.User-Agent}":       userAgent,
		"{http.request.header.Accept}":           "application/json",
		"{http.request.uri.query.x}":             "1",
		"{http.request.orig_uri.query.anything}": "",
	} {
		if got := repl.ReplaceAll(text, ""); got != want {
			t.Errorf("%s is %q in a poll, want %q", text, got, want)
		}
	}
}

// Handlers may change the values of a header in place; the key stays what it is.
func TestForwardedValuesAreCopies(t *testing.T) {
	h := &Handler{ForwardHeader: []string{"X-User"}}
	h.setDefaults()
	r := received(t, "/", func(r *http.Request) { r.Header.Set("X-User", "alice") })
	target := h.newTarget(r)
	r.Header["X-User"][0] = "bob"
	for range 2 {
		poll, err := target.newRequest(t.Context(), new(caddyhttp.Server), httptest.NewRecorder())
		if err != nil {
			t.Fatal(err)
		}
		if got := poll.Header.Get("X-User"); got != "alice" {
			t.Errorf("poll for %q", got)
		}
		poll.Header["X-User"][0] = "carol"
	}
}

func TestPathsThatLookLikeHosts(t *testing.T) {
	h := new(Handler)
	h.setDefaults()
	r := received(t, "/x", func(r *http.Request) { r.URL.Path = "//evil/path" })
	poll, err := h.newTarget(r).newRequest(t.Context(), new(caddyhttp.Server), httptest.NewRecorder())
	if err != nil || poll.URL.Path != "//evil/path" || poll.URL.Host != "" {
		t.Errorf("poll of %v (%v)", poll.URL, err)
	}
}

// lastEventIDs are URLs and Last-Event-ID header fields, and what they say.
var lastEventIDs = []struct{ uri, header, want string }{
	{"/", "", ""},
	{"/", "a", "a"},
	{"/?lastEventId=q", "", "q"},
	{"/?lasteventid=q", "", "q"},
	{"/?last_event_id=q", "", "q"},
	{"/?Last-Event-ID=q", "", "q"},
	{"/?x=1&LASTEVENTID=%71", "", "q"},
	{"/?lastEventId=", "", ""},
	{"/?lastEventId=&last-event-id=q", "", "q"},
	{"/?lastEventId=old&a&last_event_id=q&lastEventId=", "", "q"},
	{"/?lastEventId=q", "a", "a"},
	{"/?lastEventId=%zz", "", "%zz"},
}

func TestLastEventIDEverySpelling(t *testing.T) {
	for _, c := range lastEventIDs {
		r := httptest.NewRequest(http.MethodGet, c.uri, http.NoBody)
		if c.header != "" {
			r.Header.Set("Last-Event-ID", c.header)
		}
		if got := lastEventID(r); got != c.want {
			t.Errorf("%s with %q: %q", c.uri, c.header, got)
		}
	}
}

func TestCaddysOwnVariablesAreInNoKey(t *testing.T) {
	h := new(Handler)
	h.setDefaults()
	key := h.newTarget(received(t, "/", nil)).key()
	for _, name := range []string{"client_ip", "trusted_proxy", "start_time", "uuid", "trace_id", "span_id", "matchers.error"} {
		r := received(t, "/", func(r *http.Request) { caddyhttp.SetVar(r.Context(), name, "x") })
		if got := h.newTarget(r); got.key() != key {
			t.Errorf("%s is in the key", name)
		}
	}
	a := target{header: http.Header{"A": {"b"}}, vars: map[string]string{}}
	b := target{header: http.Header{}, vars: map[string]string{"A": lengthPrefixed("b")}}
	if a.key() == b.key() {
		t.Error("a header field and a variable make the same key")
	}
}

func TestForwardedUserAgent(t *testing.T) {
	h := &Handler{ForwardHeader: []string{"User-Agent"}}
	h.setDefaults()
	r := received(t, "/", func(r *http.Request) { r.Header.Set("User-Agent", "mine") })
	poll, err := h.newTarget(r).newRequest(context.Background(), new(caddyhttp.Server), httptest.NewRecorder())
	if err != nil || poll.Header.Get("User-Agent") != "mine" || poll.RequestURI != "/" {
		t.Errorf("%v (%v)", poll.Header, err)
	}
	poll.Header["User-Agent"][0] = "changed by the route"
	if r.Header.Get("User-Agent") != "mine" {
		t.Error("the route of a poll changes the client's request")
	}
}
