package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	caddycore "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
)

func init() {
	caddycore.RegisterModule(new(eventLogger))
}

// eventLogger is a handler of Caddy events that logs them, and panics if it is told to.
type eventLogger struct {
	Panic bool `json:"panic,omitempty"`

	logger *zap.Logger
}

func (*eventLogger) CaddyModule() caddycore.ModuleInfo {
	return caddycore.ModuleInfo{ID: "events.handlers.test_log", New: func() caddycore.Module { return new(eventLogger) }}
}

func (l *eventLogger) Provision(ctx caddycore.Context) error {
	l.logger = ctx.Logger()
	return nil
}

func (l *eventLogger) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	l.Panic = d.NextArg()
	return nil
}

func (l *eventLogger) Handle(_ context.Context, e caddycore.Event) error {
	if l.Panic {
		panic("as told")
	}
	l.logger.Info("seen", zap.String("event", e.Name()), zap.Any("data", e.Data), zap.String("origin", e.Origin().CaddyModule().String()))
	return nil
}

// resources asks the admin API what is polled.
func (c *caddy) resources() (list []map[string]any, text string) {
	c.t.Helper()
	status, text := c.askAdmin(http.MethodGet, "/poll_sse/resources")
	if err := json.Unmarshal([]byte(text), &list); err != nil || status != http.StatusOK {
		c.t.Fatalf("%d %v: %s", status, err, text)
	}
	return list, text
}

// askAdmin asks the admin API. Headers come in pairs.
func (c *caddy) askAdmin(method, path string, header ...string) (status int, text string) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), method, "http://localhost"+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := c.admin.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// Operators see what is polled and nothing of the clients that is forwarded but the
// query, also after a reload.
func TestAdminListsResources(t *testing.T) {
	u := newUpstream(t, ` {"a":1,"b":[1,2,3]} `)
	site := u.site("interval 50ms 1h\ndrain 10000h\nforward_header Authorization\nselectable /a\nhistory 5") // a reload ends no stream
	c := start(t, site)
	if list, text := c.resources(); len(list) != 0 || strings.TrimSpace(text) != "[]" {
		t.Errorf("before anybody came: %s", text)
	}
	streams := []*connection{
		c.open("h1", "/api/x?page=2&sse_status=1", "", "Authorization", "Bearer secret-one"),
		c.open("h2", "/api/x", "", "Authorization", "Bearer secret-two"),
		c.open("h2", "/api/x?sse_format=full&sse_select=/a", "", "Authorization", "Bearer secret-two"),
	}
	u.set(`{"a":2,"b":[1,2,3]}`)
	for _, s := range streams[1:] {
		c.next(s)
		c.askAdmin(http.MethodPost, "/poll_sse/poll?path=/api/x")
		c.next(s)
	}
	c.eventually("the newest poll is noted", func() bool { // after its events
		_, text := c.resources()
		return strings.Contains(text, `"size":19,"streams":2,`)
	})
	for range 2 {
		list, text := c.resources()
		if len(list) != 2 || strings.Contains(text, "secret") || strings.Contains(text, "Bearer") {
			t.Fatalf("%s", text)
		}
		one, two := list[0], list[1]
		if one["query"] != "" {
			one, two = two, one
		}
		for name, want := range map[string]any{
			"server": "srv0", "host": fmt.Sprint("localhost:", c.port), "path": "/api/x", "query": "", "state": "live", "size": 19., "streams": 2.,
		} {
			if one[name] != want {
				t.Errorf("%s is %v, want %v", name, one[name], want)
			}
		}
		if two["query"] != "page=2" || two["host"] != "localhost" || two["streams"] != 1. {
			t.Errorf("%v", two)
		}
		poll := one["last_poll"].(map[string]any)
		if poll["result"] != "unchanged" && poll["result"] != "changed" || poll["status"] != 200. || poll["duration"].(float64) <= 0 || poll["cause"] != nil {
			t.Errorf("%v", poll)
		}
		for _, at := range []any{poll["at"], one["since"]} {
			if at, err := time.Parse(time.RFC3339, at.(string)); err != nil || time.Since(at) < 0 || time.Since(at) > time.Minute {
				t.Errorf("%v: %v", at, err)
			}
		}
		views := one["views"].([]any)
		if fmt.Sprint(views) != `[map[bytes:`+fmt.Sprint(views[0].(map[string]any)["bytes"])+` clients:1 events:1 format:patch select:] map[bytes:0 clients:1 events:0 format:full select:/a]]` || views[0].(map[string]any)["bytes"].(float64) < 50 {
			t.Errorf("%v", views)
		}
		age := one["age"].(float64)
		if err := c.reload(site + "\n# the same"); err != nil {
			t.Fatal(err)
		}
		if list, _ = c.resources(); len(list) != 2 || max(list[0]["age"].(float64), list[1]["age"].(float64)) < age {
			t.Errorf("after a reload: %v", list)
		}
	}
	for _, s := range streams {
		s.close()
	}
}

// An operator's poll does not wait for what the poller would wait for, but for a
// Retry-After.
func TestAdminPolls(t *testing.T) {
	u := newUpstream(t, `1`)
	c := start(t, u.site("interval 1h"))
	a, b := c.open("h2", "/api/a", ""), c.open("h2", "/api/b", "")
	c.next(a)
	c.next(b)
	u.set(`2`)
	status, text := c.askAdmin(http.MethodPost, "/poll_sse/poll?path=/api/a&host=LOCALHOST:"+fmt.Sprint(c.port))
	var polled []map[string]any
	if err := json.Unmarshal([]byte(text), &polled); err != nil || status != http.StatusAccepted || len(polled) != 1 || polled[0]["path"] != "/api/a" {
		t.Errorf("%d %s", status, text)
	}
	if e := c.next(a); !strings.Contains(e.Data, "2") {
		t.Errorf("%v", e)
	}
	c.askAdmin(http.MethodPost, fmt.Sprintf("/poll_sse/poll?id=%v", polled[0]["id"].(float64)+1)) // b
	if e := c.next(b); !strings.Contains(e.Data, "2") {
		t.Errorf("%v", e)
	}

	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	poll := func() { c.askAdmin(http.MethodPost, "/poll_sse/poll?path=/api/a") }
	state := func() any { list, _ := c.resources(); return list[0]["state"] }
	poll()
	c.eventually("it is stale", func() bool { return state() == "stale" })
	u.set(`3`)
	poll()
	if e := c.next(a); !strings.Contains(e.Data, "3") {
		t.Errorf("%v", e)
	}
	c.eventually("it is live again", func() bool { return state() == "live" }) // which is noted after the event

	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	poll()
	c.eventually("it is stale again", func() bool { return state() == "stale" })
	polls := u.count()
	for range 5 {
		poll()
		time.Sleep(50 * time.Millisecond)
	}
	if n := u.count(); n != polls {
		t.Errorf("polled %d times although the upstream wants to be left alone", n-polls)
	}
}

// What is asked wrongly, or by a page of another site, is refused.
func TestAdminRefuses(t *testing.T) {
	u := newUpstream(t, `1`)
	c := start(t, u.site(""))
	c.next(c.open("h1", "/api/a", ""))
	for _, q := range []struct {
		method, path string
		header       []string
		want         int
		says         string
	}{
		{"POST", "/poll_sse/resources", nil, 405, "method not allowed"},
		{"HEAD", "/poll_sse/resources", nil, 200, ""},
		{"GET", "/poll_sse/poll?path=/api/a", nil, 405, "method not allowed"},
		{"POST", "/poll_sse/poll", nil, 400, "host, path or id"},
		{"POST", "/poll_sse/poll?url=/api/a", nil, 400, `unknown or repeated parameter \"url\"`},
		{"POST", "/poll_sse/poll?path=/api/a&path=/api/b", nil, 400, `unknown or repeated parameter \"path\"`},
		{"POST", "/poll_sse/poll?host=localhost&path=/api/a;b", nil, 400, "semicolon"},
		{"POST", "/poll_sse/poll?path=/api/b", nil, 404, "nothing like that"},
		{"POST", "/poll_sse/poll?path=/api/a&host=example.com", nil, 404, "nothing like that"},
		{"POST", "/poll_sse/poll?path=/api/a&id=0", nil, 404, "nothing like that"},
		{"POST", "/poll_sse/poll?path=/api/a", []string{"Origin", "https://example.com"}, 403, "not allowed"},
		{"GET", "/poll_sse/resources", []string{"Origin", "https://example.com"}, 403, "not allowed"},
	} {
		status, text := c.askAdmin(q.method, q.path, q.header...)
		if status != q.want || !strings.Contains(text, q.says) {
			t.Errorf("%s %s: %d %s, want %d %s", q.method, q.path, status, text, q.want, q.says)
		}
	}
}

// accessLines returns what the access log has of streams, as soon as there are n.
func (c *caddy) accessLines(n int) (lines []map[string]any) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d lines are logged", n), func() bool {
		lines = nil
		for line := range strings.Lines(c.log.String()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == "handled request" && entry["stream"] != nil {
				lines = append(lines, entry)
			}
		}
		return len(lines) >= n
	})
	return lines
}

// The access log says of each stream what became of it.
func TestAccessLogTellsOfStreams(t *testing.T) {
	u := newUpstream(t, numbered(0))
	site := "log\n" + u.site("interval 20ms\nmax_views 1\nselectable /n")
	c := start(t, site)
	for i, protocol := range protocols {
		first := c.open(protocol, "/api/n", "")
		id := c.next(first).ID
		u.set(numbered(2*i + 1))
		c.next(first)
		first.close()
		line := c.accessLines(2*i + 1)[2*i]["stream"].(map[string]any)
		if size := line["bytes"].(float64); line["events"] != 2. || line["resume"] != "new" || line["end"] != "client_left" || size < 150 || size > 2000 {
			t.Errorf("%s: %v", protocol, line)
		}
		again := c.open(protocol, "/api/n", id)
		c.next(again)
		if err := c.reload(site + fmt.Sprintf("\nheader X-Reload %d", i)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.tryNext(again); err != io.EOF {
			t.Errorf("%s: %v", protocol, err)
		}
		line = c.accessLines(2*i + 2)[2*i+1]["stream"].(map[string]any)
		if line["events"] != 1. || line["resume"] != "held" || line["end"] != "drain" {
			t.Errorf("%s: %v", protocol, line)
		}
	}
	c.next(c.open("h1", "/api/n", ""))
	refused := c.open("h1", "/api/n?sse_select=/n", "")
	if _, err := c.tryNext(refused); err != io.EOF {
		t.Error(err)
	}
	if line := c.accessLines(7)[6]["stream"]; fmt.Sprint(line) != "map[end:max_views]" {
		t.Errorf("%v", line)
	}
}

// A path that nothing behind the directive answers is warned of, once a second at most,
// whoever asks for it.
func TestUnansweredPathsAreLogged(t *testing.T) {
	c := start(t, "poll_sse\nroute /api/* {\nreverse_proxy 127.0.0.1:1\n}")
	warnings := func() int { return strings.Count(c.log.String(), "nothing behind poll_sse answers") }
	began := time.Now()
	for n := range 20 {
		c.refuses(fmt.Sprintf("/elsewhere/%d?secret=1", n), http.StatusOK)
	}
	c.eventually("it is warned of", func() bool { return warnings() > 0 })
	if n, most := warnings(), 2+int(time.Since(began).Seconds()); n > most {
		t.Errorf("%d warnings, want %d at most", n, most)
	}
	if n := c.metric(`caddy_poll_sse_polls_total{cause="unanswered"}`); n != 20 {
		t.Errorf("%d polls were not answered, of 20", n)
	}
	if strings.Contains(c.log.String(), "secret") {
		t.Error("the log tells the query")
	}
}

// reverse_proxy logs the polls whose answers are cut off, with query and header, unless
// its lines are kept out.
func TestLinesOfReverseProxyCanBeKeptOut(t *testing.T) {
	u := newUpstream(t, numbered(0))
	site := u.site("interval 20ms\nmax_body 100B\nforward_header X-User")
	quiet := strings.TrimSpace(blocksOf(t, "docs/operation.md", "caddyfile quiet")[0])
	for _, options := range []string{"", strings.TrimSuffix(strings.TrimPrefix(quiet, "{"), "}")} {
		c := start(t, site)
		c.options = options
		if err := c.reload(site); err != nil {
			t.Fatal(err)
		}
		c.open("h1", "/api/n?secret=1", "", "X-User", "alice")
		c.eventually("a poll is logged", func() bool { return strings.Contains(c.log.String(), `"cause":"too_large"`) })
		for _, told := range []string{"aborting with incomplete response", "secret", "alice"} {
			if strings.Contains(c.log.String(), told) != (options == "") {
				t.Errorf("%q is logged with options %q: %v", told, options, options != "")
			}
		}
	}
}

// Handlers of Caddy events are told when the upstream turns, and cannot end the process.
func TestCaddyEvents(t *testing.T) {
	u := newUpstream(t, `1`)
	c := start(t, u.site("interval 20ms"))
	c.options = "events {\n\ton poll_sse.stale test_log\n\ton poll_sse.live test_log\n}"
	if err := c.reload(u.site("interval 20ms")); err != nil {
		t.Fatal(err)
	}
	s := c.open("h2", "/api/n?secret=1", "")
	c.next(s)
	seen := func(event string) int {
		return strings.Count(c.log.String(), `"event":"`+event+`","data":{`)
	}
	for n := range 3 {
		if seen("poll_sse.stale") != n || seen("poll_sse.live") != n {
			t.Fatalf("%d stale, %d live, want %d each", seen("poll_sse.stale"), seen("poll_sse.live"), n)
		}
		u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		c.eventually("a handler is told", func() bool { return seen("poll_sse.stale") == n+1 })
		u.set(fmt.Sprint(n + 2))
		c.eventually("a handler is told again", func() bool { return seen("poll_sse.live") == n+1 })
		c.next(s)
	}
	for _, want := range []string{`"cause":"status"`, `"host":"localhost:` + fmt.Sprint(c.port) + `"`, `"path":"/api/n"`, `"status":502`, `"origin":"http.handlers.poll_sse"`} {
		if !strings.Contains(c.log.String(), want) {
			t.Errorf("the event does not say %s", want)
		}
	}
	if strings.Contains(c.log.String(), "secret") {
		t.Error("an event tells the query")
	}

	s.close() // or its connection would lead to the old server
	c.options = "events {\n\ton poll_sse.stale test_log panic\n}"
	if err := c.reload(u.site("interval 20ms")); err != nil {
		t.Fatal(err)
	}
	s = c.open("h2", "/api/n", "")
	c.next(s)
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	c.eventually("a handler has panicked", func() bool { return strings.Contains(c.log.String(), "handler of an event panicked") })
	u.set(`"on"`)
	if e := c.next(s); !strings.Contains(e.Data, `"on"`) {
		t.Errorf("%v", e)
	}
	c.log.forgive("panic") // that one was wanted
}

// spans returns the spans that the process has printed.
func (c *caddy) spans() (spans []map[string]any) {
	for line := range strings.Lines(c.log.String()) {
		var span map[string]any
		if json.Unmarshal([]byte(line), &span) == nil && span["SpanContext"] != nil {
			spans = append(spans, span)
		}
	}
	return spans
}

// Where the route is traced, each poll is a span of its own trace, which the upstream is
// told of, and nothing else of the client's.
func TestPollsAreSpans(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	u := newUpstream(t, `1`)
	c := start(t, "@traced path /api/traced*\ntracing @traced {\n\tspan stream\n}\n"+u.site("interval 20ms"))
	const clients = "4bf92f3577b34da6a3ce929d0e0e4736"
	s := c.open("h2", "/api/traced?secret=1", "", "traceparent", "00-"+clients+"-00f067aa0ba902b7-01")
	c.next(s)
	u.set(`2`)
	c.next(s)
	polls := u.count()
	c.eventually("polls find nothing new", func() bool { return u.count() >= polls+2 })
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	results := func() (results []string) {
		for _, span := range c.spans() {
			for _, a := range span["Attributes"].([]any) {
				if a := a.(map[string]any); a["Key"] == "poll_sse.result" {
					results = append(results, a["Value"].(map[string]any)["Value"].(string)+" "+span["Status"].(map[string]any)["Code"].(string))
				}
			}
		}
		return results
	}
	c.eventually("polls are printed", func() bool {
		r := results()
		return slices.Contains(r, "changed Unset") && slices.Contains(r, "unchanged Unset") && slices.Contains(r, "failed Error")
	})
	traces := make(map[string]bool)
	for _, span := range c.spans() {
		text := fmt.Sprint(span)
		if span["Name"] != "poll" {
			continue
		}
		if strings.Contains(text, clients) || strings.Contains(text, "secret") || !strings.Contains(text, "/api/traced") {
			t.Fatalf("%s", text)
		}
		if parent := span["Parent"].(map[string]any)["TraceID"]; strings.Trim(parent.(string), "0") != "" {
			t.Fatalf("a poll has the parent %s", parent)
		}
		traces[span["SpanContext"].(map[string]any)["TraceID"].(string)] = true
	}
	known := 0
	u.mu.Lock()
	for _, poll := range u.polls {
		parts := strings.Split(poll.Header.Get("traceparent"), "-")
		if len(parts) != 4 || parts[1] == clients {
			t.Fatalf("polled with traceparent %q", parts)
		}
		if traces[parts[1]] {
			known++
		}
	}
	u.mu.Unlock()
	if known == 0 || len(traces) < 3 {
		t.Errorf("the upstream knows %d of %d traces", known, len(traces))
	}

	u.set(`3`)
	c.next(c.open("h2", "/api/plain", ""))
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, poll := range u.polls {
		if poll.URL.Path == "/api/plain" && poll.Header.Get("traceparent") != "" {
			t.Error("a poll of a route without tracing is traced")
		}
	}
}
