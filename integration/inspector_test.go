package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestInspector uses the inspector as people do, in a real browser in front of a real
// Caddy.
func TestInspector(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	browser := startBrowser(t)
	t.Run("Form", func(t *testing.T) { testInspectorForm(t, browser) })
	t.Run("Document", func(t *testing.T) { testInspectorDocument(t, browser) })
	t.Run("Flash", func(t *testing.T) { testInspectorFlash(t, browser) })
	t.Run("Events", func(t *testing.T) { testInspectorEvents(t, browser) })
	t.Run("List", func(t *testing.T) { testInspectorList(t, browser) })
	t.Run("CutAndResume", func(t *testing.T) { testInspectorCutAndResume(t, browser) })
	t.Run("LostAndStale", func(t *testing.T) { testInspectorLostAndStale(t, browser) })
	t.Run("Select", func(t *testing.T) { testInspectorSelect(t, browser) })
	t.Run("NamedEvents", func(t *testing.T) { testInspectorNamedEvents(t, browser) })
	t.Run("Hostile", func(t *testing.T) { testInspectorHostile(t, browser) })
	t.Run("Large", func(t *testing.T) { testInspectorLarge(t, browser) })
	t.Run("Keyboard", func(t *testing.T) { testInspectorKeyboard(t, browser) })
	t.Run("Accessibility", func(t *testing.T) { testInspectorAccessibility(t, browser) })
	t.Run("ReducedMotion", testInspectorReducedMotion)
	t.Run("ForcedColors", testInspectorForcedColors)
}

// inspection is a tab with the inspector, and what it looks at.
type inspection struct {
	*caddy
	*upstream
	wire *cutter
	tab  context.Context
}

// inspect opens the inspector with a query, on a site that has document at /api/doc.
func inspect(t *testing.T, browser context.Context, document, subdirectives, query string) *inspection {
	t.Helper()
	u := newUpstream(t, document)
	c := start(t, u.site("inspect /inspect\nretry 50ms 100ms\n"+subdirectives))
	i := &inspection{c, u, newCutter(t, filepath.Join(c.dir, "h1")), nil}
	i.openTab(browser, query)
	return i
}

// openTab opens the inspector, in which nothing may go wrong.
func (i *inspection) openTab(browser context.Context, query string) {
	i.t.Helper()
	i.tab = openTab(i.t, browser, i.page(query))
	i.do(`window.faults = []
		addEventListener('error', e => faults.push(e.message))
		addEventListener('unhandledrejection', e => faults.push(String(e.reason)))
		addEventListener('securitypolicyviolation', e => faults.push(e.violatedDirective))`)
	i.t.Cleanup(func() {
		for _, fault := range inPage[[]string](i, `faults`) {
			i.t.Errorf("in the page: %s", fault)
		}
	})
}

func (i *inspection) page(query string) string {
	return fmt.Sprintf("http://localhost:%d/inspect%s", i.wire.port(), query)
}

// inPage evaluates an expression in the page. $ and $$ are as in the console.
func inPage[T any](i *inspection, expression string) T {
	i.t.Helper()
	return evaluate[T](i.t, i.tab, `(($, $$) => `+expression+`)(s => document.querySelector(s), s => [...document.querySelectorAll(s)])`)
}

// text returns what an element says.
func (i *inspection) text(selector string) string {
	i.t.Helper()
	return inPage[string](i, fmt.Sprintf(`$(%q).innerText`, selector))
}

func (i *inspection) do(statement string) {
	i.t.Helper()
	inPage[bool](i, "{"+statement+"; return true}")
}

func (i *inspection) click(selector string) {
	i.t.Helper()
	i.do(fmt.Sprintf(`$(%q).click()`, selector))
}

// hints reports whether the page guesses that the events have a name.
func (i *inspection) hints() bool {
	i.t.Helper()
	return strings.Contains(i.text("#empty"), "enter it above")
}

// keys presses keys.
func (i *inspection) keys(keys string) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.tab, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.KeyEvent(keys)); err != nil {
		i.t.Fatal(err)
	}
}

// status waits until the page says that of its connection.
func (i *inspection) status(text string) {
	i.t.Helper()
	i.eventually("the page says "+text, func() bool { return strings.Contains(i.text("[role=status]"), text) })
}

// polled waits until a poll that began after now has been answered.
func (i *inspection) polled() {
	i.t.Helper()
	n := i.count()
	i.eventually("the upstream is polled", func() bool { return i.count() >= n+2 })
}

// unfold opens all there is in the tree, and returns the document that it shows.
const unfold = `(() => {
	for (let closed; (closed = $$('.row[aria-expanded=false], .more > .row')).length > 0;) closed.forEach(row => row.click())
	const read = li => {
		const row = li.firstChild, text = row.lastChild.textContent
		const items = [...li.querySelectorAll(':scope > [role=group] > li')]
		const key = item => item.firstChild.firstChild.textContent
		if (row.ariaExpanded !== 'true') return text
		if (/ members?$/.test(text)) return '{' + items.map(item => JSON.stringify(key(item)) + ':' + read(item)) + '}'
		if (/ characters$/.test(text)) return JSON.stringify(items.map(item => JSON.parse(read(item))).join(''))
		return '[' + items.map((item, i) => key(item) === String(i) ? read(item) : 'item ' + i + ' is called ' + key(item)) + ']'
	}
	return read($('#tree > li'))
})()`

// showsDocument waits until the tree shows a document.
func (i *inspection) showsDocument(document string) {
	i.t.Helper()
	want, got := value(i.t, document), ""
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if got = inPage[string](i, `$('#tree > li') ? `+unfold+` : 'null'`); reflect.DeepEqual(value(i.t, got), want) {
			return
		}
		if time.Now().After(deadline) {
			i.t.Fatalf("the tree shows\n%.2000s\nwant\n%.2000s", got, document)
		}
	}
}

func testInspectorForm(t *testing.T, browser context.Context) {
	i := inspect(t, browser, market(0), "interval 50ms", "")
	visible := func() string {
		return inPage[string](i, `$$('main > *').filter(e => e.checkVisibility()).map(e => e.id || e.tagName).join()`)
	}
	if got := visible(); got != "welcome" {
		t.Errorf("without a URL the page shows %s", got)
	}

	i.do(`$('[name=url]').focus()`)
	i.keys("/api/doc?station=a%20b&x=1\r")
	i.status("Connected")
	i.showsDocument(market(0))
	if got := visible(); got != "DL,SECTION,SECTION" {
		t.Errorf("the page shows %s", got)
	}
	const query = "?url=/api/doc%3Fstation%3Da%2520b%26x%3D1"
	if got := inPage[string](i, `location.search`); got != query {
		t.Errorf("the address has %s, want %s", got, query)
	}
	if got := i.lastPoll().URL.RawQuery; got != "station=a%20b&x=1" {
		t.Errorf("polled with %s", got)
	}
	i.do(`history.back()`)
	i.eventually("the page goes back to the form", func() bool { return visible() == "welcome" })
	i.do(`history.forward()`)
	i.status("Connected")

	// The address tells all, also to someone else.
	other := &inspection{i.caddy, i.upstream, i.wire, openTab(t, browser, i.page("?url=/api/doc&format=merge&select=/prices&event=price"))}
	if got := inPage[string](other, `[...new FormData($('form')).values()].join(' ')`); got != "/api/doc merge /prices price" {
		t.Errorf("the form has %s", got)
	}

	for _, bad := range []string{
		"https://example.com/", "//example.com/", `/\example.com/`, `\\example.com/`, "javascript:alert(1)",
		"data:text/event-stream,", "/\t/example.com/", "//[", "api/doc", i.page(""),
	} {
		tab := &inspection{i.caddy, i.upstream, i.wire, openTab(t, browser, i.page("?url="+url.QueryEscape(bad)))}
		tab.status("Refused: a path of this site")
		if n := inPage[int](tab, `performance.getEntriesByType('resource').length`); n != 0 {
			t.Errorf("%s: the page made %d requests", bad, n)
		}
	}
	tab := &inspection{i.caddy, i.upstream, i.wire, openTab(t, browser, i.page("?url=/.//example.com/"))}
	tab.status("Refused: HTTP 200") // Caddy's empty answer
	if got := inPage[string](tab, `performance.getEntriesByType('resource').map(e => new URL(e.name).host === location.host).join()`); strings.Contains(got, "false") || got == "" {
		t.Errorf("requests to this site: %s", got)
	}
}

func testInspectorDocument(t *testing.T, browser context.Context) {
	for _, format := range []string{"patch", "full", "merge"} {
		i := inspect(t, browser, market(0), "interval 20ms", "?url=/api/doc&format="+format)
		for version := range 12 {
			i.set(market(version))
			i.showsDocument(market(version))
		}
		for _, document := range []string{"3", `"text"`, "null", "[[]]", `{"":{}}`, `[1e400,-0,12345678901234567890,1.50]`} {
			i.set(document)
			i.showsDocument(document)
		}
	}
}

// watchFlashes keeps what flashes from now on, as it is when all that has changed is shown:
// it does not last.
const watchFlashes = `
	const animate = Element.prototype.animate
	window.flashed = []
	Element.prototype.animate = function (frames, time) {
		queueMicrotask(() => flashed.push({
			text: this.textContent, colours: frames.backgroundColor.join(), tree: $('#tree').innerText,
			fades: document.getAnimations().some(a => a.playState === 'running'),
		}))
		return animate.call(this, frames, time)
	}`

// flash is what flashes, and what the tree says beside.
type flash struct {
	Text  string `json:"text"`
	Tree  string `json:"tree"`
	Fades bool   `json:"fades"`
}

// flashed returns what has flashed since the last call.
func (i *inspection) flashed() []flash {
	i.t.Helper()
	return inPage[[]flash](i, `flashed.splice(0)`)
}

func testInspectorFlash(t *testing.T, browser context.Context) {
	numbers := func(changed int) string {
		list := make([]int, 200)
		list[changed] = 1
		text, _ := json.Marshal(list)
		return string(text)
	}
	// The filler keeps patches shorter than the document.
	document := func(a, c int, list string, changed int) string {
		return fmt.Sprintf(`{"a":%d,"deep":{"b":{"c":%d}},"list":%s,"big":%s,"filler":%q}`, a, c, list, numbers(changed), strings.Repeat(filler, 8))
	}
	for _, format := range []string{"patch", "full", "merge"} {
		i := inspect(t, browser, document(1, 1, `[{"id":1},{"id":2}]`, 0), "interval 20ms", "?url=/api/doc&format="+format)
		i.eventually("the tree is there", func() bool { return inPage[bool](i, `$$('#tree li').length > 5`) })
		i.click("#tree [role=group] > li:nth-child(2) > .row") // closes deep
		i.click("#tree > li > [role=group] > li:nth-child(4) > .row")
		i.do(watchFlashes)
		for _, step := range []struct{ document, flashes, note string }{
			{document(2, 1, `[{"id":1},{"id":2}]`, 0), "a2", ""},
			{document(2, 2, `[{"id":1},{"id":2}]`, 0), "deep1 member", ""},
			{document(2, 2, `[{"id":0},{"id":1},{"id":2}]`, 0), "1 added\n01 member", "1 added"},
			{document(2, 2, `[{"id":0},{"id":2}]`, 0), "1 removed", "1 removed"},
			{document(2, 2, `[{"id":0},{"id":2},{"id":3}]`, 0), "1 added\n21 member", "1 added"},
			{document(2, 2, `[{"id":0},{"id":2},{"id":3}]`, 150), "00\nShow 100 more of 100", ""},
		} {
			i.flashed()
			i.set(step.document)
			var flashes []flash
			i.eventually("something flashes", func() bool { flashes = i.flashed(); return len(flashes) > 0 })
			var got []string
			for _, f := range flashes {
				got = append(got, f.Text)
				if !strings.Contains(f.Tree, step.note) {
					t.Errorf("%s: the tree does not tell %q", format, step.note)
				}
				if !f.Fades {
					t.Errorf("%s: nothing fades", format)
				}
			}
			want := strings.Split(step.flashes, "\n")
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s: flashes %q, want %q", format, got, want)
			}
		}
		i.eventually("what was told goes away", func() bool { return inPage[string](i, `$$('.note').map(e => e.textContent).join('')`) == "" })
	}
}

// arrived returns the sizes and ids of the events of streams, the newest first, without
// those about the upstream, and how much polls would have been sent after each of these.
func arrived(t *testing.T, streams []wireStream) (events []string, sent int, polled []int) {
	t.Helper()
	polled = []int{0}
	for _, s := range streams {
		told := s.lastEventID != "" // the first status is about an earlier poll
		for _, e := range s.events {
			switch e.Type {
			case "status":
				var status struct{ Poll *struct{ Bytes int } }
				if err := json.Unmarshal([]byte(e.Data), &status); err != nil {
					t.Fatal(err)
				}
				if status.Poll != nil && !told {
					polled = append(polled, polled[len(polled)-1]+status.Poll.Bytes)
				}
				told = false
			case "ping":
			default:
				sent += e.Size
				events = slices.Insert(events, 0, fmt.Sprintf("%s id %s", bytesText(e.Size), e.ID))
			}
		}
	}
	return events, sent, polled
}

// bytes returns the number of bytes that an element tells.
func (i *inspection) bytes(selector string) int {
	i.t.Helper()
	text := i.text(selector)
	n, err := strconv.Atoi(strings.NewReplacer(",", "", " bytes", "").Replace(text))
	if err != nil || bytesText(n) != text {
		i.t.Fatalf("%s says %q", selector, text)
	}
	return n
}

// bytesText returns a number of bytes as the page writes it.
func bytesText(n int) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text + " bytes"
}

const listed = `$$('#events > li:not(.connection)').map(li => li.querySelector('.size').textContent + ' ' + li.querySelector('.id').textContent)`

func testInspectorEvents(t *testing.T, browser context.Context) {
	// Above 64 KB events come in several lines.
	document := func(version int) string {
		return strings.Replace(market(version), `{`, `{"long":[`+strings.Repeat(fmt.Sprintf(`"%d",`, version/9), 20_000)+`0],`, 1)
	}
	for _, format := range []string{"patch", "full", "merge"} {
		i := inspect(t, browser, document(0), "interval 20ms", "?url=/api/doc&format="+format)
		for version := range 12 {
			i.set(document(version))
			i.eventually("the version arrives", func() bool { return strings.Contains(i.text("#tree"), fmt.Sprintf(`"version %d"`, version)) })
		}
		i.click("#cut")
		i.status("Cut")
		i.eventually("the connection is closed", func() bool { return i.metric("caddy_poll_sse_streams") == 0 })
		want, sent, polled := arrived(t, i.wire.streams(t))
		if got := inPage[[]string](i, listed); !slices.Equal(got, want) || len(got) < 12 {
			t.Errorf("%s: listed are\n%s\nsent were\n%s", format, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		byPolling := i.bytes("#polled")
		if !slices.Contains(polled, byPolling) {
			t.Errorf("%s: by polling %d, want one of %d", format, byPolling, polled)
		}
		if got, want := i.text("#sent")+", "+i.text("#saved"), fmt.Sprintf("%s, %.1f %%", bytesText(sent), 100*(1-float64(sent)/float64(byPolling))); got != want {
			t.Errorf("%s: sent and saved %s, want %s", format, got, want)
		}
		kinds := inPage[string](i, `[...new Set($$('#events b').map(b => b.textContent))].sort().join()`)
		if want := map[string]string{"patch": "connected,cut,following,patch,snapshot", "full": "connected,cut,following,snapshot", "merge": "connected,cut,following,merge,snapshot"}[format]; kinds != want {
			t.Errorf("%s: events are %s, want %s", format, kinds, want)
		}
	}
}

// testInspectorList looks at single entries, and how many there are.
func testInspectorList(t *testing.T, browser context.Context) {
	document := func(n int) string {
		return fmt.Sprintf(`{"a":%d,"b":%[1]d,"c":%[1]d,"d":%[1]d,"e":%[1]d,"filler":%q}`, n, strings.Repeat(filler, 8))
	}
	i := inspect(t, browser, document(0), "interval 20ms", "?url=/api/doc")
	arrives := func(n int) {
		t.Helper()
		i.set(document(n))
		i.showsDocument(document(n))
	}
	i.eventually("the document arrives", func() bool { return inPage[bool](i, `!!$('#tree li')`) })
	arrives(1)
	lines := func() string {
		return inPage[string](i, `[...$('#events > li').querySelectorAll('div > code')].map(e => e.textContent).join('\n')`)
	}
	first := "replace /a 1\nreplace /b 1\nreplace /c 1"
	if got := lines(); got != first {
		t.Errorf("the entry lists\n%s\nwant\n%s", got, first)
	}
	i.click("#events button")
	if got, want := lines(), first+"\nreplace /d 1\nreplace /e 1"; got != want {
		t.Errorf("the whole entry lists\n%s\nwant\n%s", got, want)
	}
	i.click("#events button")
	if got := lines(); got != first {
		t.Errorf("closed again the entry lists\n%s", got)
	}

	i.click("#pause")
	arrives(2)
	if got := lines(); got != first {
		t.Errorf("in the paused list there came\n%s", got)
	}
	if got := i.text("#total"); !strings.HasPrefix(got, "3 events") {
		t.Errorf("in all %s", got)
	}
	i.click("#pause")
	if got := lines(); got != strings.ReplaceAll(first, "1", "2") {
		t.Errorf("after the pause there came\n%s", got)
	}

	for n := 3; n < 103; n++ {
		arrives(n)
	}
	if got := inPage[int](i, `$$('#events > li').length`); got != 100 {
		t.Errorf("%d entries", got)
	}
	i.set(`"` + strings.Repeat("long", 100_000) + `"`)
	i.eventually("a long text arrives", func() bool { return strings.Contains(i.text("#tree"), "400,000 characters") })
	if got := lines(); len(got) > 400 || !strings.HasPrefix(got, `replace (root) "longlong`) {
		t.Errorf("of a long text there is listed %.600s", got)
	}
}

func testInspectorCutAndResume(t *testing.T, browser context.Context) {
	i := inspect(t, browser, market(0), "interval 50ms", "?url=/api/doc")
	i.showsDocument(market(0))
	i.click("#cut")
	i.status("Cut at")
	byPolling := i.bytes("#polled")
	for version := 1; version <= 3; version++ {
		i.set(market(version))
		i.polled()
	}
	i.showsDocument(market(0))
	// The page takes for missed what comes at once, which here may take its time.
	i.do(`const now = Date.now(); Date.now = () => now`)
	i.click("#cut")
	i.status("Connected")
	i.showsDocument(market(3))
	streams := i.wire.streams(t)
	if len(streams) != 2 || len(streams[0].events) == 0 {
		t.Fatalf("%d streams", len(streams))
	}
	var ids []string
	size, last := 0, ""
	for _, e := range streams[0].events {
		if e.ID != "" {
			last = e.ID
		}
	}
	for _, e := range streams[1].events {
		if e.ID != "" {
			ids = append(ids, e.ID)
			size += e.Size
		}
	}
	if streams[1].lastEventID != last || len(ids) != 3 {
		t.Errorf("resumed after %q, want %q, and was sent %q", streams[1].lastEventID, last, ids)
	}
	if got, want := inPage[string](i, `$$('.connection').map(li => li.querySelector('b').textContent + ' ' + li.querySelector('.what').textContent).join('\n')`),
		"resumed Caught up with 3 events, "+bytesText(size)+"\ncut By you\nconnected From the beginning\nfollowing /api/doc, patch"; got != want {
		t.Errorf("the list says\n%s\nwant\n%s", got, want)
	}

	i.click("#cut")
	if _, _, polled := arrived(t, i.wire.streams(t)[1:]); !slices.Contains(polled, i.bytes("#polled")-byPolling) {
		t.Errorf("by polling %d more, want one of %d", i.bytes("#polled")-byPolling, polled)
	}
	i.click("#cut")
	i.eventually("nothing was missed", func() bool { return strings.Contains(i.text("#events"), "Nothing was missed") })

	// Another format goes on where the one before left off, another part begins anew.
	before := i.text("#last-id")
	i.do(`$('[name=format]').value = 'full'; $('form').requestSubmit()`)
	i.status("Connected")
	i.set(market(4))
	i.showsDocument(market(4))
	streams = i.wire.streams(t)
	if got := streams[len(streams)-1].lastEventID; got != before {
		t.Errorf("in the other format resumed after %q, want %q", got, before)
	}
	if got := inPage[string](i, `location.search`); got != "?url=/api/doc&format=full" {
		t.Errorf("the address has %s", got)
	}
}

func testInspectorLostAndStale(t *testing.T, browser context.Context) {
	u := newUpstream(t, market(0))
	c := start(t, u.site("inspect /inspect\nretry 50ms 100ms\ninterval 50ms")+"\nrespond /broken 502\nrespond /gone \"no such thing\" 410\nheader /gone Content-Type text/plain")
	i := &inspection{c, u, newCutter(t, filepath.Join(c.dir, "h1")), nil}
	i.openTab(browser, "?url=/api/doc")
	i.showsDocument(market(0))

	i.wire.reset()
	i.eventually("the list says so", func() bool {
		return strings.Contains(i.text("#events"), "Connection lost; reconnecting") && strings.Contains(i.text("#events"), "resumed")
	})
	i.status("Connected")

	i.setAnswer(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) })
	i.eventually("the upstream is stale", func() bool {
		return strings.HasPrefix(i.text("#upstream"), "stale since ") && i.text("#answer") == "503"
	})
	if got := i.text("#poll-failed"); strings.HasPrefix(got, "0") || !strings.Contains(got, " of ") {
		t.Errorf("failed polls: %s", got)
	}
	if n := inPage[int](i, `$$('#latency rect.failed').length`); n == 0 {
		t.Error("the chart has no failed poll")
	}
	i.set("<html>")
	i.eventually("the upstream's word is told", func() bool { return i.text("#answer") == "invalid" })
	i.set(market(1))
	i.eventually("the upstream is live again", func() bool {
		return strings.HasPrefix(i.text("#upstream"), "live since ") && i.text("#answer") == "200" && i.text("#interval") == "50 ms"
	})
	i.showsDocument(market(1))

	for path, want := range map[string]string{
		"/broken": "No stream (HTTP 502, no type), trying again",
		"/gone":   "Refused: HTTP 410: no such thing",
		"/ready":  "Refused: HTTP 200, text/plain. That is no stream: does the directive’s matcher include this path?",
	} {
		i.do(fmt.Sprintf(`$('[name=url]').value = %q; $('form').requestSubmit()`, path))
		i.status(want)
		if i.hints() {
			t.Errorf("%s: the page guesses that events have a name", path)
		}
	}
	i.do(`$('[name=url]').value = '/api/doc'; $('form').requestSubmit()`)
	i.status("Connected")
	i.showsDocument(market(1))
}

func testInspectorSelect(t *testing.T, browser context.Context) {
	i := inspect(t, browser, `{"version":1,"pri/ces":[{"id":"a","price":1}]}`, "interval 20ms\nselectable /pri~1ces /pri~1ces/*/price", "?url=/api/doc")
	i.eventually("the tree is there", func() bool { return strings.Contains(i.text("#tree"), "price") })
	i.do(`$$('.row').find(row => row.textContent === 'price1').click()`)
	if got := i.text("#pointer"); got != "/pri~1ces/0/price" {
		t.Errorf("at %s", got)
	}
	i.click("#pick")
	i.keys("\r")
	i.showsDocument("1")
	if got := inPage[string](i, `location.search`); got != "?url=/api/doc&select=/pri%7E1ces/0/price" {
		t.Errorf("the address has %s", got)
	}
	i.set(`{"version":1,"pri/ces":[{"id":"a","price":2}]}`)
	i.showsDocument("2")

	i.do(`$('[name=select]').value = '/version'; $('form').requestSubmit()`)
	i.status("Refused: HTTP 400: sse_select=/version is not selectable here")
	i.do(`$('[name=select]').value = 'version'; $('form').requestSubmit()`)
	i.status("Refused: HTTP 400: sse_select must be a JSON Pointer")
	i.do(`$('[name=select]').value = '/pri~1ces'; $('form').requestSubmit()`)
	i.showsDocument(`[{"id":"a","price":2}]`)
}

func testInspectorNamedEvents(t *testing.T, browser context.Context) {
	i := inspect(t, browser, market(0), "interval 20ms\nevent price", "?url=/api/doc")
	i.eventually("the upstream is live", func() bool { return strings.HasPrefix(i.text("#upstream"), "live") })
	i.eventually("the page guesses why there is no document", i.hints)
	for _, format := range []string{"patch", "full", "merge"} {
		i.do(fmt.Sprintf(`$('[name=event]').value = 'price'; $('[name=format]').value = %q; $('form').requestSubmit()`, format))
		i.status("Connected")
		for version := range 3 {
			i.set(market(version))
			i.showsDocument(market(version))
		}
	}
	i.click("#cut")
	i.eventually("the connection is closed", func() bool { return i.metric("caddy_poll_sse_streams") == 0 })
	want, _, _ := arrived(t, i.wire.streams(t))
	got := inPage[[]string](i, listed)
	if len(got) < 5 || len(want) < len(got) || !slices.Equal(got, want[:len(got)]) {
		t.Errorf("listed are\n%s\nsent were\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestInspectorGuarded runs the Caddyfile of docs/inspector.md, but for its addresses.
func TestInspectorGuarded(t *testing.T) {
	startsProcesses(t)
	text := blocksOf(t, "docs/inspector.md", "caddyfile")[0]
	u := newUpstream(t, market(0))
	port := freePort(t)
	startDocumented(t, port, "{\nadmin off\npersist_config off\n}\n"+text,
		"example.com {", site127(port), "localhost:9000", u.Listener.Addr().String())
	for _, path := range []string{"/inspect", "/inspect?url=/api/doc", "/api/doc?sse_status=polls"} {
		for password, want := range map[string]int{"": 401, "wrong": 401, "hiccup": 200} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://localhost:%d%s", port, path), nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Accept", "text/event-stream")
			if password != "" {
				request.SetBasicAuth("alice", password)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%s with password %q: %s, want %d", path, password, response.Status, want)
			}
		}
	}
}
