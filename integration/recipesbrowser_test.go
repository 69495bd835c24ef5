package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestRecipesInBrowser runs the pages of the documentation in Chromium.
func TestRecipesInBrowser(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	browser := startBrowser(t)
	t.Run("Session", func(t *testing.T) { testSessionPage(t, browser) })
	t.Run("CORS", func(t *testing.T) { testCORSPage(t, browser) })
	t.Run("SixConnections", func(t *testing.T) { testSixConnections(t, browser) })
	t.Run("Worker", func(t *testing.T) { testWorker(t, browser) })
	t.Run("Migrating", func(t *testing.T) { testMigrating(t, browser) })
	t.Run("Streamdata", func(t *testing.T) { testStreamdata(t, browser) })
}

// rendering is a page's own function, and what it was called with.
const rendering = "<!doctype html><script>const shown = [], render = doc => shown.push(doc)</script>"

const newestShown = `JSON.stringify(shown.at(-1) ?? null)`

// arrives waits until the page shows a document.
func arrives(t *testing.T, tab context.Context, document string) {
	t.Helper()
	eventually(t, "the page shows "+document, func() bool { return evaluate[string](t, tab, newestShown) == document })
}

// throughCutter returns the URL of a server's address or socket, behind a proxy that
// closes the spare connections of the browser.
func throughCutter(t *testing.T, server string) string {
	return fmt.Sprintf("http://localhost:%d/", newCutter(t, server).port())
}

// renewed reports whether a client has come back and needed nothing, be it to the log
// that it knew or, if that took longer than linger, to a new one.
func (c *caddy) renewed() bool {
	return c.metric(`caddy_poll_sse_resumes_total{outcome="held"}`)+c.metric(`caddy_poll_sse_resumes_total{outcome="digest"}`) > 0
}

// testSessionPage follows a user from the login to the end of the session.
func testSessionPage(t *testing.T, browser context.Context) {
	auth := newSessions(t, map[string]string{"a1": "alice"})
	u := newUpstream(t, "")
	u.setAnswer(ofUser)
	root := t.TempDir()
	for name, text := range map[string]string{
		"index.html": rendering + blocksOf(t, recipes, "html session")[0],
		"login":      "",
		"start.html": "<script>document.cookie = 'session=a1'</script>",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, recipe(t, recipes, "session", "localhost:9001", auth.Listener.Addr().String(),
		"localhost:9000", u.Listener.Addr().String(), "max_age 5m", quick+"\nmax_age 500ms", "/srv/www", root))
	page := throughCutter(t, c.socket())
	openTab(t, browser, page+"start.html")
	tab := openTab(t, browser, page)
	arrives(t, tab, `{"user":"alice"}`)
	c.eventually("the stream is renewed", c.renewed)
	if n := evaluate[int](t, tab, `shown.length`); n != 1 {
		t.Errorf("%d documents came, want one", n)
	}
	auth.end("a1")
	c.eventually("the page is left for the login", func() bool { return evaluate[string](t, tab, `location.pathname`) == "/login" })
}

// testCORSPage follows a document of another origin, with a cookie.
func testCORSPage(t *testing.T, browser context.Context) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"session":%q}`, session(r))
	})
	app := newCutter(t, "")
	origin := fmt.Sprintf("http://localhost:%d", app.port())
	c := start(t, recipe(t, recipes, "cors", "https://app.example.com", origin, "localhost:9000", u.Listener.Addr().String(),
		"poll_sse /api/*", "poll_sse /api/* {\nforward_header Cookie\nmax_age 500ms\n"+quick+"\n}"))
	api := throughCutter(t, c.socket())
	text := strings.Replace(blocksOf(t, recipes, "html cors")[0], "https://api.example.com/", api, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, rendering+"<script>document.cookie = 'session=a1'</script>"+text)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	app.server = server.Listener.Addr().String()

	tab := openTab(t, browser, origin)
	arrives(t, tab, `{"session":"a1"}`)
	c.eventually("the stream is renewed", c.renewed)
}

// testSixConnections counts the streams that a browser opens to a site.
func testSixConnections(t *testing.T, browser context.Context) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 200ms")+"\nrespond / <<HTML\n<!doctype html>\nHTML\nheader / Content-Type text/html")
	open := func(page string, want int) (tab context.Context) {
		tab = openTab(t, browser, page)
		evaluate[bool](t, tab, `
			var opened = 0, fetched = false
			const streams = Array.from({ length: 20 }, (_, n) => {
				const s = new EventSource('/api/n?n=' + n)
				s.onopen = () => opened++
				return s
			})
			true`)
		c.eventually(fmt.Sprintf("%s: %d streams are open", page, want), func() bool { return evaluate[int](t, tab, `opened`) == want })
		evaluate[bool](t, tab, `fetch('/api/n?fetch').then(() => fetched = true); true`)
		return tab
	}
	fetched := func(tab context.Context) bool { return evaluate[bool](t, tab, `fetched`) }

	six := open(throughCutter(t, c.socket()), 6)
	polls := u.count()
	c.eventually("each document is polled four times", func() bool { return u.count() >= polls+24 })
	if n := evaluate[int](t, six, `opened`); n != 6 || fetched(six) {
		t.Errorf("%d streams are open, and the fetch has an answer: %v", n, fetched(six))
	}
	evaluate[bool](t, six, `streams[0].close(); true`)
	c.eventually("the seventh opens", func() bool { return evaluate[int](t, six, `opened`) == 7 })
	evaluate[bool](t, six, `streams.forEach(s => s.close()); true`)
	c.eventually("the fetch has an answer", func() bool { return fetched(six) })

	all := open(fmt.Sprintf("https://localhost:%d/", c.port), 20)
	c.eventually("the fetch has an answer beside 20 streams", func() bool { return fetched(all) })
}

// testWorker opens more tabs than there are connections.
func testWorker(t *testing.T, browser context.Context) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site(quick))
	page := serve(t, c, map[string]string{
		"/":        rendering + "<script>" + blocksOf(t, recipes, "js tab")[0] + "</script>",
		"/live.js": blocksOf(t, recipes, "js worker")[0],
	})
	var tabs []context.Context
	for range 8 {
		tabs = append(tabs, openTab(t, browser, page))
	}
	for n := range 3 {
		u.set(numbered(n))
		for _, tab := range tabs {
			arrives(t, tab, numbered(n))
		}
	}
	if n := c.metric("caddy_poll_sse_streams"); n != 1 {
		t.Errorf("%d streams are open", n)
	}
	u.set(numbered(3))
	late := openTab(t, browser, page)
	arrives(t, late, numbered(3))
}

// testMigrating runs the page that polls, and those that are told, side by side.
func testMigrating(t *testing.T, browser context.Context) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site(quick+"\nclient /poll_sse.js"))
	page := serve(t, c, map[string]string{
		"/live":   rendering + blocksOf(t, "docs/migrating.md", "html live")[0],
		"/before": rendering + strings.Replace(blocksOf(t, "docs/migrating.md", "html before")[0], "2000", "100", 1),
		"/after":  rendering + blocksOf(t, "docs/migrating.md", "html after")[0],
	})
	before, after, live := openTab(t, browser, page+"before"), openTab(t, browser, page+"after"), openTab(t, browser, page+"live")
	for n := range 5 {
		u.set(numbered(n))
		arrives(t, before, numbered(n))
		arrives(t, after, numbered(n))
		arrives(t, live, numbered(n))
	}
	for _, tab := range []context.Context{after, live} {
		if n := evaluate[int](t, tab, `shown.length`); n != 5 {
			t.Errorf("the page was told %d times of 5 documents", n)
		}
	}
}

// testStreamdata runs code that was written for Streamdata.io: its own, and with its SDK.
func testStreamdata(t *testing.T, browser context.Context) {
	u := newUpstream(t, market(0))
	c := start(t, u.site(quick))
	const head = `<!doctype html><script>let prices; const shown = [], errors = [], render = doc => shown.push(structuredClone(doc)), show = e => errors.push(e)</script>
		<script src="/jsonpatch.js"></script>`
	script := func(name string) string {
		return "<script>" + blocksOf(t, "docs/migrating.md", "js "+name)[0] + "</script>"
	}
	page := serve(t, c, map[string]string{
		"/jsonpatch.js": npmFile(t, "fast-json-patch", "3.1.1", "vf6IHUX2SBcA+5/+4883dsIjpBTqmfBjmYiWK1savxQmFk4JfBMLa7ynTYOs1Rolp/T1betJxHiGD3g1Mn8lUQ==", "dist/fast-json-patch.min.js"),
		"/sdk.js":       npmFile(t, "streamdataio-js-sdk", "2.0.2", "Fw0Y5owXy1aTEqOy1YTtZIFEDTg32PeTkAK2X3k3rVSZkLx2KHvswzbV17CvC6zzuvfXFJo4AVxo9RazzHKzbQ==", "dist/bundles/streamdataio.min.js"),
		"/old":          head + script("adapter") + script("old") + "<script>source.addEventListener('error', e => show(e.data))</script>",
		"/sdk":          head + script("adapter") + `<script src="/sdk.js"></script>` + script("sdk"),
	})
	old, sdk := openTab(t, browser, page+"old"), openTab(t, browser, page+"sdk")
	shows := func(version int) {
		t.Helper()
		for name, tab := range map[string]context.Context{"old": old, "sdk": sdk} {
			c.eventually(fmt.Sprintf("version %d is shown by %s", version, name), func() bool {
				return reflect.DeepEqual(value(t, evaluate[string](t, tab, newestShown)), value(t, market(version)))
			})
		}
	}
	shows(0)
	evaluate[bool](t, old, `
		var seen = []
		for (const type of ['data', 'patch']) source.addEventListener(type, () => seen.push(type))
		true`)
	for version := range 5 {
		u.set(market(version))
		shows(version)
	}
	u.set(`[]`) // as a patch no smaller
	c.eventually("a list is shown", func() bool { return evaluate[string](t, old, newestShown) == "[]" })
	if seen := evaluate[string](t, old, `seen.join()`); seen != "patch,patch,patch,patch,data" {
		t.Errorf("events came as %s", seen)
	}
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for tab, upstream := range map[context.Context]string{old: `JSON.parse(errors.find(e => e) ?? '{}').upstream`, sdk: `errors[0]?.original.upstream`} {
		c.eventually("the page is told of the failure", func() bool { return evaluate[int](t, tab, `(`+upstream+`) ?? 0`) == http.StatusServiceUnavailable })
	}
	u.set(market(5))
	shows(5)
}
