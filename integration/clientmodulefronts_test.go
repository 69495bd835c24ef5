package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// front is a proxy in front of Caddy that misbehaves as it is told to.
type front struct {
	client *http.Client

	mu       sync.Mutex                                       // guards all below
	answer   http.HandlerFunc                                 // instead of Caddy's
	pass     func(w io.Writer, ctx context.Context, b []byte) // of Caddy's answers, in its way
	allow    bool                                             // other origins
	cleanly  bool                                             // how streams are cut
	cancels  []context.CancelFunc                             // of the streams
	requests []*http.Request
}

func newFront(c *caddy) *front { return &front{client: c.h1} }

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	f.mu.Lock()
	answer := f.answer
	f.requests = append(f.requests, r.Clone(context.Background()))
	f.cancels = append(f.cancels, cancel)
	if f.allow {
		w.Header().Set("Access-Control-Allow-Origin", "*")
	}
	f.mu.Unlock()
	if answer != nil {
		answer(w, r.WithContext(ctx))
		return
	}
	response := passOn(ctx, w, r, f.client, "http://localhost", "Accept-Encoding")
	defer response.Body.Close()
	controller := http.NewResponseController(w)
	var err error
	for b := make([]byte, 64<<10); err == nil; {
		controller.Flush()
		var n int
		n, err = response.Body.Read(b)
		f.passing()(w, ctx, b[:n])
	}
	if err != io.EOF && !f.endsCleanly() {
		panic(http.ErrAbortHandler)
	}
}

func (f *front) passing() func(io.Writer, context.Context, []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pass != nil {
		return f.pass
	}
	return func(w io.Writer, _ context.Context, b []byte) { w.Write(b) }
}

func (f *front) endsCleanly() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cleanly
}

// set lets change what the proxy does.
func (f *front) set(change func(f *front)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// cut ends all responses.
func (f *front) cut(cleanly bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cleanly = cleanly
	for _, cancel := range f.cancels {
		cancel()
	}
	f.cancels = nil
}

// asked returns the requests so far.
func (f *front) asked() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

// visit is a page that follows versions of [market] through a front.
type visit struct {
	*testing.T
	*front
	upstream *upstream
	tab      context.Context
	path     string
	first    int // of the versions that it sees
	version  *int
}

// visitPage counts versions.
const visitPage = modulePage + `
	const [url, options] = JSON.parse(decodeURIComponent(location.hash.slice(1)))
	const seen = globalThis.seen = [], statuses = globalThis.statuses = []
	if (options.worker) {
		await navigator.serviceWorker.register('/worker.js')
		if (!navigator.serviceWorker.controller) await new Promise(resolve => navigator.serviceWorker.oncontrollerchange = resolve)
	}
	const doc = globalThis.doc = live(url, { ...options, onstatus: status => statuses.push(status) })
	doc.subscribe(v => seen.push(v.version ?? v))
</script>`

// worker asks for streams anew, as some service workers do, without the id.
const worker = `
	oninstall = () => skipWaiting()
	onactivate = e => e.waitUntil(clients.claim())
	onfetch = e => {
		if (e.request.url.includes('/api/')) e.respondWith(fetch(e.request.url, { headers: { Accept: 'text/event-stream', Worker: 'yes' } }))
	}
`

// change makes the next version, and waits until it has been polled.
func (v *visit) change() {
	v.Helper()
	*v.version++
	v.upstream.set(market(*v.version))
	polls := v.polls()
	// When the second poll from here on begins, the first has got this version.
	eventually(v.T, "the upstream is polled", func() bool { return v.polls() >= polls+2 })
}

// polls returns how often what the page follows has been polled.
func (v *visit) polls() (n int) {
	v.upstream.mu.Lock()
	defer v.upstream.mu.Unlock()
	for _, poll := range v.upstream.polls {
		if poll.URL.Path == v.path {
			n++
		}
	}
	return n
}

func (v *visit) arrives() {
	v.Helper()
	eventually(v.T, fmt.Sprintf("version %d arrives", *v.version), func() bool {
		return evaluate[int](v.T, v.tab, `globalThis.seen?.at(-1) ?? -1`) == *v.version
	})
}

// returns waits until the page has asked as often again, from now on.
func (v *visit) returns(times int) {
	v.Helper()
	n := len(v.asked())
	eventually(v.T, "the page asks again", func() bool { return len(v.asked()) >= n+times })
}

// verdict looks whether each version was seen, once, by a page that said where it left off.
func (v *visit) verdict() {
	v.Helper()
	var want []int
	for version := v.first; version <= *v.version; version++ {
		want = append(want, version)
	}
	if got := evaluate[[]int](v.T, v.tab, `seen`); !reflect.DeepEqual(got, want) {
		v.Errorf("the page saw %d, want %d", got, want)
	}
	for i, r := range v.asked() {
		if id, header := r.FormValue("lastEventId"), r.Header.Get("Last-Event-ID"); (id == "") != (i == 0) || header != "" {
			v.Errorf("request %d is for %s, with Last-Event-ID %q", i, r.URL, header)
		}
	}
	v.sane()
}

func (v *visit) sane() {
	v.Helper()
	if doc := value(v.T, evaluate[string](v.T, v.tab, `JSON.stringify(doc.value)`)); !reflect.DeepEqual(doc, value(v.T, market(*v.version))) {
		v.Errorf("the page holds %.500s", fmt.Sprint(doc))
	}
	// A page may find a stream silent that is only late.
	eventually(v.T, "the status is live", func() bool { return evaluate[string](v.T, v.tab, `doc.status`) == "live" })
	if errors := evaluate[[]string](v.T, v.tab, `errors`); len(errors) > 0 {
		v.Errorf("errors in the page: %q", errors)
	}
}

// TestClientModuleSurvives lets happen to the module what ends an EventSource for good, or
// leads it astray.
func TestClientModuleSurvives(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	browser := startBrowser(t)
	version := 0
	u := newUpstream(t, market(version))
	c := start(t, fmt.Sprintf(`
	poll_sse /api/own* {
		interval 20ms
		event price
		format merge
		selectable /version
	}
	poll_sse /api/beats/* {
		interval 20ms
		heartbeat 200ms
	}
	%s`, u.site("interval 20ms\nlinger 10s\nclient /poll_sse.js")))
	files := map[string]string{"/": visitPage, "/poll_sse.js": get(t, serve(t, c, nil)+"poll_sse.js"), "/worker.js": worker}
	if files["/poll_sse.js"] != readClient(t, "poll_sse.js") {
		t.Fatal("Caddy serves another module")
	}
	// open opens a page; prepare may change what the front does before.
	open := func(t *testing.T, path, options string, prepare func(f *front)) *visit {
		f := newFront(c)
		if prepare != nil {
			prepare(f)
		}
		page, url := serveFiles(t, files, f), path
		if f.allow {
			url = serveFiles(t, nil, f) + path[1:]
		}
		tab := openTab(t, browser, fmt.Sprintf("%s#[%q,%s]", page, url, options))
		path, _, _ = strings.Cut(path, "?")
		return &visit{T: t, front: f, upstream: u, tab: tab, path: path, first: version, version: &version}
	}
	// It is found out soon where a document with heartbeats is silent; one without proves
	// that it is not silence that is found out.
	const calm, beats = "/api/", "/api/beats/"
	follow := func(t *testing.T, folder, options string, prepare func(f *front)) *visit {
		v := open(t, folder+strings.ReplaceAll(t.Name(), "/", "-"), options, prepare)
		v.arrives()
		return v
	}

	for name, answer := range map[string]http.HandlerFunc{
		"502":       func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusBadGateway) },
		"404":       http.NotFound,
		"204":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"HTML":      says("<!doctype html><title>busy</title>"),
		"reset":     outages["reset"],
		"truncated": outages["truncated"],
		"hang":      outages["hang"],
		"turned away": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "retry: 60000\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder := calm
			if name == "hang" {
				folder = beats
			}
			v := follow(t, folder, `{}`, nil)
			v.set(func(f *front) { f.answer = answer })
			v.cut(false)
			v.returns(3) // after each of which it gives up
			for range 3 {
				v.change()
			}
			v.set(func(f *front) { f.answer = nil })
			if name == "hang" {
				v.cut(false)
			}
			v.arrives()
			v.change()
			v.arrives()
			v.verdict()
		})
	}
	t.Run("ends", func(t *testing.T) {
		v := follow(t, calm, `{}`, nil)
		for i := range 6 {
			v.cut(i%2 == 0)
			v.change()
			v.arrives()
		}
		v.verdict()
	})
	t.Run("silence", func(t *testing.T) {
		v := follow(t, beats, `{}`, nil)
		v.set(func(f *front) { f.pass = func(_ io.Writer, ctx context.Context, _ []byte) { <-ctx.Done() } })
		v.change()
		v.returns(1)
		v.change()
		v.set(func(f *front) { f.pass = nil })
		v.arrives()
		v.verdict()
	})
	t.Run("a slow line", func(t *testing.T) {
		v := follow(t, beats, `{}`, func(f *front) {
			f.pass = func(w io.Writer, ctx context.Context, b []byte) {
				if i := bytes.Index(b, []byte("data: [")); i >= 0 {
					w.Write(b[:i])
					http.NewResponseController(w.(http.ResponseWriter)).Flush()
					select {
					case <-time.After(1500 * time.Millisecond): // longer than three heartbeats
					case <-ctx.Done():
					}
					b = b[i:]
				}
				w.Write(b)
			}
		})
		if n := len(v.asked()); n < 2 {
			t.Errorf("it waited for the document the first time already")
		}
		v.sane()
	})
	t.Run("a patch that is damaged", func(t *testing.T) {
		v := follow(t, calm, `{}`, nil)
		v.set(func(f *front) {
			f.pass = func(w io.Writer, _ context.Context, b []byte) {
				w.Write(bytes.ReplaceAll(b, []byte(`"path":"/`), []byte(`"path":"/no/`)))
			}
		})
		before := len(v.asked())
		v.change()
		eventually(t, "the page asks again", func() bool { return len(v.asked()) > before })
		v.set(func(f *front) { f.pass = nil })
		v.arrives()
		v.change()
		v.arrives()
		v.sane()
		if second := v.asked()[1].URL; second.Query().Has("lastEventId") {
			t.Errorf("it came back for %s", second)
		}
	})
	t.Run("another origin that refuses", func(t *testing.T) {
		v := follow(t, calm, `{}`, func(f *front) { f.allow = true })
		v.set(func(f *front) { f.allow = false })
		v.cut(false)
		v.change()
		v.returns(2)
		v.set(func(f *front) { f.allow = true })
		v.arrives()
		v.verdict()
	})
	t.Run("a service worker", func(t *testing.T) {
		v := follow(t, calm, `{"worker":true}`, nil)
		for i := range 3 {
			v.cut(i == 1)
			v.change()
			v.arrives()
		}
		v.verdict()
		for _, r := range v.asked() {
			if r.Header.Get("Worker") == "" {
				t.Errorf("%s does not come from the worker", r.URL)
			}
		}
	})
	t.Run("404 at first", func(t *testing.T) {
		u.setAnswer(http.NotFound)
		v := open(t, "/api/late", `{}`, nil)
		v.returns(3)
		u.set(market(version))
		v.arrives()
		v.sane()
	})
	t.Run("stale", func(t *testing.T) {
		v := follow(t, calm, `{}`, nil)
		told := func(want ...string) {
			t.Helper()
			eventually(t, fmt.Sprintf("the page is told %q", want), func() bool { return reflect.DeepEqual(evaluate[[]string](t, v.tab, `statuses`), want) })
		}
		told("live")
		u.setAnswer(outages["500"])
		told("live", "stale")
		v.cut(false)
		told("live", "stale", "connecting", "stale")
		v.change()
		told("live", "stale", "connecting", "stale", "live")
		v.arrives()
		v.verdict()
	})
	t.Run("options of the directive", func(t *testing.T) {
		whole := open(t, "/api/own", `{"event":"price"}`, nil)
		part := open(t, "/api/own?sse_select=/version", `{"event":"price"}`, nil)
		for range 3 {
			whole.arrives()
			part.arrives()
			whole.change()
		}
		whole.arrives()
		whole.verdict()
	})
	t.Run("close", func(t *testing.T) {
		c.eventually("nobody else is connected", func() bool { return c.metric("caddy_poll_sse_streams") == 0 })
		v := follow(t, calm, `{}`, nil)
		if n := c.metric("caddy_poll_sse_streams"); n != 1 {
			t.Fatalf("%d streams", n)
		}
		evaluate[bool](t, v.tab, `doc.close(), dispatchEvent(new Event('online'))`)
		c.eventually("the page has left", func() bool { return c.metric("caddy_poll_sse_streams") == 0 })
		v.change()
		if got := evaluate[[]int](t, v.tab, `seen`); len(got) != 1 || len(v.asked()) != 1 {
			t.Errorf("the page saw %d in %d streams", got, len(v.asked()))
		}
	})
	t.Run("online", func(t *testing.T) {
		v := follow(t, calm, `{}`, nil)
		evaluate[bool](t, v.tab, `Math.random = () => 1e5, dispatchEvent(new Event('online'))`)
		v.change()
		v.arrives()
		v.verdict()
		if n := len(v.asked()); n != 2 {
			t.Errorf("%d streams", n)
		}
	})
}
