package integration

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// TestBrowser drives the page of Caddyfile.example, with its own EventSource, in a
// real browser.
func TestBrowser(t *testing.T) {
	browser := startBrowser(t)
	t.Run("Example", func(t *testing.T) { testExample(t, browser) })
	t.Run("CutMidEvent", func(t *testing.T) { testCutMidEvent(t, browser, "off", cuts) })
	t.Run("CutMidEventCompressed", func(t *testing.T) { testCutMidEvent(t, browser, "gzip", compressedCuts) })
	t.Run("README", func(t *testing.T) { testFirstScreen(t, browser) })
	t.Run("HTMX", func(t *testing.T) { testHTMX(t, browser) })
	t.Run("Polyfill", func(t *testing.T) { testPolyfill(t, browser) })
}

// testExample runs Caddyfile.example as it is, but for its ports.
func testExample(t *testing.T, browser context.Context) {
	port, upstreamPort := freePort(t), freePort(t)
	c := startExample(t, port,
		"http://:8081 {", fmt.Sprintf("http://:%d {", upstreamPort),
		"reverse_proxy /api/* 127.0.0.1:8081", fmt.Sprintf("reverse_proxy /api/* 127.0.0.1:%d", upstreamPort))
	// A spare connection that Chromium has open and not used yet would hold up the
	// end of Caddy for 5s; the proxy closes it.
	url := fmt.Sprintf("http://localhost:%d/", newCutter(t, fmt.Sprintf("127.0.0.1:%d", port)).port())

	// Caddy expands what looks like a placeholder, and the page is full of braces.
	_, page, _ := strings.Cut(readExample(t), "respond / <<HTML\n")
	page, _, _ = strings.Cut(page, "\n\t\tHTML\n")
	page = strings.ReplaceAll("\n"+page, "\n\t\t", "\n")[1:]
	if got := get(t, url); got != page || len(page) < 1000 {
		t.Errorf("page of %d bytes is not the one of %d bytes in Caddyfile.example:\n%s", len(got), len(page), got)
	}

	tab := openTab(t, browser, url)
	const table = `document.querySelector('tbody').innerText`
	c.eventually("the page shows the document", func() bool { return evaluate[string](t, tab, table) != "" })
	before := evaluate[string](t, tab, table)
	c.eventually("values change in the page", func() bool {
		return evaluate[int](t, tab, `count`) >= 3 && evaluate[string](t, tab, table) != before
	})
	if n := evaluate[int](t, tab, `$('ol').innerText.split('the whole document').length - 1`); n != 1 {
		t.Errorf("%d events were the whole document, want the first only", n)
	}
	if rows, items := evaluate[int](t, tab, `$('tbody').rows.length`), evaluate[int](t, tab, `doc.prices.length`); rows != items || items < 10 {
		t.Errorf("the page shows %d items of %d", rows, items)
	}
	if status := evaluate[string](t, tab, `$('[role=status]').textContent`); status != "Connected" {
		t.Errorf("the page says %q", status)
	}
}

// cut is a place at which a connection is cut.
type cut struct {
	name string
	at   *regexp.Regexp
}

// cuts are the places in an event at which its connection is cut, each as what the
// bytes that reach the browser end in.
var cuts = []cut{
	{"in the name of the field", regexp.MustCompile(`\nda`)},
	{"in the data", regexp.MustCompile(`\ndata: .{40}`)},
	{"at the end of the data", regexp.MustCompile(`\ndata: .*\}\]`)},
	{"after the data", regexp.MustCompile(`\ndata: .*\n`)},
	{"in the id", regexp.MustCompile(`\nid: .{20}`)},
	{"after the id", regexp.MustCompile(`\nid: .*\n`)},
}

// compressedCuts are the same among deflate blocks, which end in 00 00 ff ff. A byte above
// 7f is not UTF-8 there.
var compressedCuts = []cut{
	{"in the size of the chunk", regexp.MustCompile(`(?s)\x00\x00[^\x00-\x7f]{2}.{3}`)},
	{"in the event", regexp.MustCompile(`(?s)\x00\x00[^\x00-\x7f]{2}.{20}`)},
	{"later in the event", regexp.MustCompile(`(?s)\x00\x00[^\x00-\x7f]{2}.{50}`)},
	{"at the end of the event", regexp.MustCompile(`\x00\x00[^\x00-\x7f]`)},
	{"after the event", regexp.MustCompile(`\x00\x00[^\x00-\x7f]{2}`)},
}

// testCutMidEvent cuts the browser's connection in the middle of events, changes the
// document while it is away, and looks at what went over the wire.
func testCutMidEvent(t *testing.T, browser context.Context, compress string, cuts []cut) {
	u := newUpstream(t, market(0))
	port := freePort(t)
	c := startExample(t, port,
		"reverse_proxy /api/* 127.0.0.1:8081", "reverse_proxy /api/* "+u.Listener.Addr().String(),
		"http://:8081 {", fmt.Sprintf("http://:%d {", freePort(t)),
		"interval 1s", "interval 20ms\nretry 50ms 100ms\ncompress "+compress)
	wire := newCutter(t, fmt.Sprintf("127.0.0.1:%d", port))
	tab := openTab(t, browser, fmt.Sprintf("http://localhost:%d/", wire.port()))

	version := 0
	arrives := func() {
		t.Helper()
		c.eventually(fmt.Sprintf("version %d arrives", version), func() bool {
			return evaluate[int](t, tab, `doc?.version ?? -1`) == version
		})
	}
	change := func() {
		version++
		u.set(market(version))
	}
	arrives()
	evaluate[bool](t, tab, `
		var seen = [], errors = []
		events.addEventListener('message', e => seen.push(e.lastEventId))
		addEventListener('error', e => errors.push(e.message))
		true`)
	change()
	arrives()
	for i, cut := range cuts {
		wire.cutAt(cut.at, i%3) // some of its attempts to reconnect fail too
		change()
		c.eventually("the connection is cut "+cut.name, wire.hasCut)
		for range 3 {
			change()
			// When the second poll from here on begins, the first has got this version.
			polls := u.count()
			c.eventually("the upstream is polled", func() bool { return u.count() >= polls+2 })
		}
		arrives()
		change()
		arrives()
	}

	// The state at the end: in the page, in a stream of whole documents, upstream.
	want := value(t, market(version))
	if got := evaluate[string](t, tab, `JSON.stringify(doc)`); !reflect.DeepEqual(value(t, got), want) {
		t.Errorf("the page holds\n%.1500s\nwant\n%.1500s", got, market(version))
	}
	url := fmt.Sprintf("http://localhost:%d/api/prices", port)
	full, err := connectTo(http.DefaultClient, url+"?sse_format=full", "")
	if err != nil {
		t.Fatal(err)
	}
	defer full.close()
	if got := c.next(full).Data; !reflect.DeepEqual(value(t, got), want) {
		t.Errorf("the stream of whole documents has\n%.1500s\nwant\n%.1500s", got, market(version))
	}
	if got := get(t, url); !reflect.DeepEqual(value(t, got), want) {
		t.Errorf("GET has\n%.1500s\nwant\n%.1500s", got, market(version))
	}
	if got, want := evaluate[[]string](t, tab, `[...$('tbody').rows].map(row => row.cells[2].textContent)`), priceColumn(t, version); !slices.Equal(got, want) {
		t.Errorf("the page shows %q, want %q", got, want)
	}
	if got := evaluate[[]string](t, tab, `errors`); len(got) > 0 {
		t.Errorf("errors in the page: %q", got)
	}

	streams := wire.streams(t)
	if len(streams) != 1+len(cuts) {
		t.Fatalf("%d streams, want %d", len(streams), 1+len(cuts))
	}
	var doc any
	var ids []string
	last := ""
	for i, s := range streams {
		if s.lastEventID != last {
			t.Errorf("request %d has Last-Event-ID %q, want %q", i, s.lastEventID, last)
		}
		if i < len(cuts) && !errors.Is(s.err, io.ErrUnexpectedEOF) {
			t.Errorf("stream %d ended with %v, not in the middle of an event", i, s.err)
		}
		for k, e := range s.events {
			if k == len(s.events)-1 && i+1 < len(streams) && streams[i+1].lastEventID == last {
				// All of its text was there when its connection was cut, but the browser
				// has told the page of the end only. It asks for the event again.
				break
			}
			if whole := strings.Contains(e.Data, `"path":""`); whole != (len(ids) == 0) {
				t.Errorf("event %s is the whole document: %v", e.ID, whole)
			}
			// Every version, and every one once.
			doc = apply(t, doc, e.Data)
			if want := value(t, market(len(ids))); !reflect.DeepEqual(doc, want) {
				t.Fatalf("after event %d: %.1500s\nwant %.1500s", len(ids), fmt.Sprint(doc), fmt.Sprint(want))
			}
			ids = append(ids, e.ID)
			last = e.ID
		}
	}
	if len(ids) != version+1 {
		t.Errorf("%d events, want %d", len(ids), version+1)
	}
	if seen := evaluate[[]string](t, tab, `seen`); len(ids) == 0 || !slices.Equal(seen, ids[1:]) {
		t.Errorf("the page saw %q, sent were %q", seen, ids)
	}
}

// market returns a version of a document that the page can show, with whatever else
// makes patches difficult.
func market(version int) string {
	var prices []any
	for item := range 9 {
		if item == 4 && version%2 == 0 || item == 2 && version%3 == 0 { // they come and go
			continue
		}
		price := float64(item)
		if item%3 == 0 {
			price += float64(version%7) / 4
		}
		prices = append(prices, map[string]any{
			"id": fmt.Sprint("item", item), "name": fmt.Sprint("Item ", item), "origin": "<b>&amp;",
			"unit": "kg", "price": price, "stock": 100 + item,
		})
	}
	if version%5 == 0 { // and move
		slices.Reverse(prices)
	}
	kinds := []any{nil, true, "text", 1.5, []any{}, map[string]any{}, []any{nil}, map[string]any{"": nil}}
	doc := map[string]any{
		"version": version,
		"updated": fmt.Sprint("version ", version),
		"prices":  prices,
		"a/b":     map[string]any{"~1": version, "~": version % 2, "/": filler[:120]},
		"":        map[string]any{"": version},
		"é😀\"\\":  fmt.Sprint("\u2028 \\n \"ü😀\" ", version%5),
		"kind":    kinds[version%len(kinds)],
		"list":    kinds[:version%len(kinds)],
		"grid":    []any{[]int{1, version}, []int{version % 2, 2, 3}},
		// Four patches together have to be smaller than the whole document.
		"~filler": strings.Repeat(filler, 64),
	}
	if version%2 == 1 {
		doc["odd/even"] = "odd"
	}
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// priceColumn returns what the page has to show of a version of [market].
func priceColumn(t *testing.T, version int) (column []string) {
	t.Helper()
	var doc struct {
		Prices []struct{ Price float64 }
	}
	if err := json.Unmarshal([]byte(market(version)), &doc); err != nil {
		t.Fatal(err)
	}
	for _, item := range doc.Prices {
		column = append(column, fmt.Sprintf("%.2f / kg", item.Price))
	}
	return column
}

// startBrowser runs Chromium until the test ends.
func startBrowser(t *testing.T, options ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	startsProcesses(t)
	path := program(t, "chromium")
	dir, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	log := new(buffer)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(options,
		chromedp.ExecPath(path),
		chromedp.UserDataDir(dir),
		chromedp.Headless,
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.IgnoreCertErrors,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.CombinedOutput(log))...)
	t.Cleanup(cancel)
	browser, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	t.Cleanup(func() { // waits for the process, which writes to its directory until it ends
		ctx, cancel := context.WithTimeout(browser, patience)
		defer cancel()
		chromedp.Cancel(ctx)
	})
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("starting Chromium: %v\n%s", err, log)
	}
	return browser
}

// openTab loads url in a tab of its own.
func openTab(t *testing.T, browser context.Context, url string) context.Context {
	t.Helper()
	tab, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	if err := chromedp.Do(tab); err != nil { // its context has to outlive the tab
		t.Fatalf("opening tab: %v", err)
	}
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatalf("opening %s: %v", url, err)
	}
	return tab
}

// evaluate returns the value of a JavaScript expression in the page.
func evaluate[T any](t *testing.T, tab context.Context, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("evaluating %s: %v", expression, err)
	}
	return v
}

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// startExample runs Caddy with Caddyfile.example, served on a port of 127.0.0.1,
// until the test ends.
func startExample(t *testing.T, port int, replacements ...string) *caddy {
	t.Helper()
	return startDocumented(t, port, readExample(t), append(replacements, "http://localhost:8080 {", site127(port))...)
}

// site127 begins a site on a port of 127.0.0.1.
func site127(port int) string { return fmt.Sprintf("http://localhost:%d {\nbind 127.0.0.1", port) }

// startDocumented runs Caddy with a Caddyfile from the documentation, which serves
// that port. Replacements are pairs of what stands in it once, and what shall stand
// there instead.
func startDocumented(t *testing.T, port int, text string, replacements ...string) *caddy {
	t.Helper()
	for i := 0; i < len(replacements); i += 2 {
		if n := strings.Count(text, replacements[i]); n != 1 {
			t.Fatalf("the Caddyfile has %q %d times", replacements[i], n)
		}
		text = strings.Replace(text, replacements[i], replacements[i+1], 1)
	}
	c := &caddy{t: t, dir: t.TempDir()}
	file := filepath.Join(c.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.runArgs("run", "--config", file, "--adapter", "caddyfile")
	t.Cleanup(c.stop)
	c.eventually("Caddy serves", func() bool {
		select {
		case <-c.exited:
			t.Fatalf("Caddy ended:\n%s", c.log)
		default:
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return c
}

// get returns what url serves.
func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, response.Status, err)
	}
	return string(body)
}

// cutter is a TCP proxy in front of a server. It keeps what it forwards, and cuts a
// connection where it is told to.
type cutter struct {
	listener net.Listener
	server   string
	running  sync.WaitGroup

	mu     sync.Mutex // guards all below
	links  []*link    // in the order of the newest request on each
	open   map[net.Conn]bool
	at     *regexp.Regexp // where to cut, nil for nowhere
	refuse int            // how many connections to refuse after the cut
	hard   bool           // whether to cut by a reset (RST) instead of an end (FIN)
}

// link is a connection through a cutter.
type link struct {
	requests, responses []byte // as forwarded
	begun               int    // where the newest response begins
}

// newCutter returns a proxy in front of a server's address or socket.
func newCutter(t *testing.T, server string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, server: server, open: make(map[net.Conn]bool)}
	c.running.Go(c.accept)
	t.Cleanup(func() {
		listener.Close()
		c.mu.Lock()
		for conn := range c.open {
			conn.Close()
		}
		c.open = nil
		c.mu.Unlock()
		c.running.Wait()
	})
	return c
}

func (c *cutter) port() int { return c.listener.Addr().(*net.TCPAddr).Port }

// cutAt makes the proxy cut the connection whose bytes from the server next match at,
// where the match ends, and refuse some connections after that.
func (c *cutter) cutAt(at *regexp.Regexp, refuse int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.refuse = at, refuse
}

// resets makes the proxy cut by resets from now on, or no longer.
func (c *cutter) resets(hard bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hard = hard
}

// reset resets all connections.
func (c *cutter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		abort(conn)
	}
}

// abort closes a connection, by a reset if it can.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

func (c *cutter) hasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at == nil
}

func (c *cutter) accept() {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		if c.refused() {
			client.Close()
			continue
		}
		c.running.Go(func() { c.connect(client) })
	}
}

// connect connects a client that has begun to send: browsers open connections to spare,
// and Caddy waits for those when it ends.
func (c *cutter) connect(client net.Conn) {
	l := new(link)
	if !c.keep(client, nil) {
		return
	}
	b := make([]byte, 32<<10)
	n, err := client.Read(b)
	if err != nil {
		client.Close()
		return
	}
	network := "tcp"
	if strings.HasPrefix(c.server, "/") {
		network = "unix"
	}
	server, err := net.Dial(network, c.server)
	if err != nil {
		client.Close()
		return
	}
	if !c.keep(server, l) {
		return
	}
	c.request(l, b[:n])
	server.Write(b[:n]) // if that fails, there will be no response either
	c.running.Go(func() { c.pipe(server, client, func(b []byte) (int, bool) { return c.request(l, b), false }) })
	c.running.Go(func() { c.pipe(client, server, func(b []byte) (int, bool) { return c.response(l, b) }) })
}

func (c *cutter) refused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != nil || c.refuse == 0 {
		return false
	}
	c.refuse--
	return true
}

// keep notes a connection, and a new link if it makes one, unless the proxy is closed.
func (c *cutter) keep(conn net.Conn, l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		conn.Close()
		return false
	}
	c.open[conn] = true
	if l != nil {
		c.links = append(c.links, l)
	}
	return true
}

// pipe forwards from one connection to the other until either ends, or until forward
// cuts; then it closes both.
func (c *cutter) pipe(to, from net.Conn, forward func([]byte) (allowed int, cut bool)) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		allowed, cut := forward(b[:n])
		if _, err := to.Write(b[:allowed]); err != nil {
			return
		}
		switch {
		case cut && c.isHard():
			abort(to)
		case cut: // Chromium drops events that it finds together with the end
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil || cut {
			return
		}
	}
}

func (c *cutter) isHard() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hard
}

// request notes bytes from the client.
func (c *cutter) request(l *link, b []byte) (allowed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.requests, l.begun = append(l.requests, b...), len(l.responses)
	i := slices.Index(c.links, l)
	c.links = append(slices.Delete(c.links, i, i+1), l)
	return len(b)
}

// response notes bytes from the server, up to where the connection is to be cut.
func (c *cutter) response(l *link, b []byte) (allowed int, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	allowed = len(b)
	if c.at != nil {
		before := l.responses[max(l.begun, len(l.responses)-4096):]
		for _, match := range c.at.FindAllIndex(slices.Concat(before, b), -1) {
			if end := match[1] - len(before); end > 0 {
				c.at, allowed, cut = nil, end, true
				break
			}
		}
	}
	l.responses = append(l.responses, b[:allowed]...)
	return allowed, cut
}

// wireStream is an event stream as it went over the wire.
type wireStream struct {
	lastEventID string
	events      []sse.Event
	half        sse.Event // the one in which it ended, if any
	err         error     // that ended it
}

// streams returns the event streams that the proxy has forwarded, in their order.
func (c *cutter) streams(t *testing.T) (streams []wireStream) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.links {
		requests := bufio.NewReader(strings.NewReader(string(l.requests)))
		responses := bufio.NewReader(strings.NewReader(string(l.responses)))
		for {
			request, err := http.ReadRequest(requests)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("reading request: %v\n%s", err, l.requests)
			}
			response, err := http.ReadResponse(responses, request)
			if err == io.ErrUnexpectedEOF { // the server was killed
				break
			}
			if err != nil {
				t.Fatalf("reading response: %v\n%s", err, l.responses)
			}
			if !strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
				io.Copy(io.Discard, response.Body)
				continue
			}
			s := wireStream{lastEventID: cmp.Or(request.Header.Get("Last-Event-ID"), request.FormValue("lastEventId"))}
			for reader := sse.NewReader(decoded(response, response.Body)); ; {
				e, err := reader.Next()
				if err != nil {
					s.half, s.err = e, err
					break
				}
				s.events = append(s.events, e)
			}
			streams = append(streams, s)
		}
	}
	return streams
}
