package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pages follow the URL behind the # with what is in Chromium or runs there.
var pages = map[string]string{
	"eventsource.html": `<script>
		new EventSource(url).onmessage = e => report(e.lastEventId, e.type, e.data)
	</script>`,
	"polyfill.html": `<script src="eventsource.min.js"></script><script>
		new EventSourcePolyfill(url).onmessage = e => report(e.lastEventId, e.type, e.data)
	</script>`,
	// It gives up where a stream ends, unless its user makes that an error.
	"fetch.html": `<script type="module">
		import { fetchEventSource } from './esm/index'
		fetchEventSource(url, {
			onmessage: e => report(e.id, e.event, e.data),
			onclose() { throw new Error('the stream has ended') },
		})
	</script>`,
	"htmx2.html": `<script src="htmx2.js"></script><script src="sse2.js"></script>
		<p hx-ext="sse"><b sse-swap="price"></b></p><script>
		document.querySelector('p').setAttribute('sse-connect', url)
		document.addEventListener('htmx:sseMessage', e => report(e.detail.lastEventId, e.detail.type, e.detail.data))
	</script>`,
	"htmx4.html": `<script src="htmx4.js"></script><script src="sse4.js"></script><b></b><script>
		document.querySelector('b').setAttribute('hx-sse:connect', url)
		document.addEventListener('htmx:sse:after:message', ({ detail: { message } }) => report(message.id, message.event, message.data))
	</script>`,
}

const pageBegin = `<!doctype html><title>A follower</title><body><script>
	const url = location.hash.slice(1), seen = []
	const report = (id, type, data) => seen.push({ id, type: type === 'message' ? '' : type, data })
</script>`

// writePages writes the pages with their scripts into a directory.
func writePages(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const four = "oF7JgXhDW9UXCy/k1ZYFUQgzu/rm19ORWPSPNL91vPluB2PB9+MV55tyQdH/w7o2EAbTYUG5SDW1R60mdkdqGg=="
	files := map[string]string{
		"eventsource.min.js": npmFile(t, "event-source-polyfill", "1.0.31", "4IJSItgS/41IxN5UVAVuAyczwZF7ZIEsM1XAoUzIHA6A+xzusEZUutdXz2Nr+MQPLxfTiCvqE79/C8HT8fKFvA==", "src/eventsource.min.js"),
		"htmx2.js":           npmFile(t, "htmx.org", "2.0.11", "Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==", "dist/htmx.min.js"),
		"sse2.js":            npmFile(t, "htmx-ext-sse", "2.2.4", "LJmxVhykyflBWgh5PvbRidcyuqMHlgfajmmzumvKctv9puvsufeH6OaejSMZTNTnEI8O2wXXn4ZZtBdpEMqmEQ==", "dist/sse.min.js"),
		"htmx4.js":           npmFile(t, "htmx.org", "4.0.1", four, "dist/htmx.min.js"),
		"sse4.js":            npmFile(t, "htmx.org", "4.0.1", four, "dist/ext/hx-sse.min.js"),
	}
	for _, file := range []string{"index.js", "fetch.js", "parse.js"} {
		files["esm/"+file] = npmFile(t, fetchEventSource, fetchEventSourceVersion, fetchEventSourceSum, "lib/esm/"+file)
	}
	for name, page := range pages {
		files[name] = pageBegin + page
	}
	if err := os.Mkdir(filepath.Join(dir, "esm"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestBrowserClients plays a scenario to clients in Chromium.
func TestBrowserClients(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	browser := startBrowser(t)
	// The modules import each other without the ending of a file's name.
	s := newScenario(t, plainAndGzip+`
	poll_sse /api/price {
		event price
		interval 20ms
		retry 20ms 50ms
		drain 100ms
		max_age 600ms
		heartbeat 200ms
		selectable /version
	}
	@files not path /api/*
	root * `+writePages(t)+`
	try_files {path} {path}.js
	file_server @files`)
	follow := func(page, path string) *follower {
		t.Helper()
		return s.follow(page, path, func(url string) func() []report {
			base := strings.TrimSuffix(url, path)
			tab := openTab(t, browser, fmt.Sprintf("%s/%s#%s", base, page, path))
			return func() []report { return evaluate[[]report](t, tab, `seen.splice(0)`) }
		})
	}
	for _, path := range []string{"/api/plain", "/api/gzip"} {
		follow("eventsource.html", path)
		follow("polyfill.html", path)
		f := follow("fetch.html", path)
		if path == "/api/plain" {
			f.cuts = without(cuts, "after the id") // see losesCut
		}
	}
	const number = "?sse_format=full&sse_select=/version"
	two, four := follow("htmx2.html", "/api/price"+number), follow("htmx4.html", "/api/plain"+number)
	two.number, four.number = true, true
	two.eventType = "price"
	two.cuts, four.cuts = compressedCuts[:2], []cut{cuts[0], cuts[3], cuts[4]} // events are short
	s.play(3)
}
