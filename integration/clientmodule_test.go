package integration

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
	"github.com/pollsse/caddy-poll-sse/internal/oracle"
	"github.com/pollsse/caddy-poll-sse/internal/promise"
)

func readClient(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../client", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestClientModule runs the module's own tests, in fake time.
func TestClientModule(t *testing.T) {
	needs(t, "node")
	out, err := exec.Command("node", "--test", "--test-reporter=tap", "../client/poll_sse_test.js").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("# fail 0")) || bytes.Contains(out, []byte("# pass 0")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestClientModuleIsSmall(t *testing.T) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(readClient(t, "poll_sse.js")))
	w.Close()
	if b.Len() > 2048 || b.Len() < 1000 {
		t.Errorf("gzipped it has %d bytes", b.Len())
	}
}

// modulePage begins a page with the module that is served at /poll_sse.js. To reconnect
// it waits 40 ms, not 1 to 4 s, and twice as long each time.
const modulePage = `<!doctype html><title>The client module</title><link rel="icon" href="data:,"><body><script type="module">
	Math.random = () => -0.32
	const { live } = await import('/poll_sse.js')
	const errors = globalThis.errors = []
	addEventListener('error', e => errors.push(e.message))
	// Texts of equal documents are equal.
	const canonical = v => Object(v) !== v ? JSON.stringify(v)
		: Array.isArray(v) ? '[' + v.map(canonical) + ']'
		: '{' + Object.keys(v).sort().map(name => JSON.stringify(name) + ':' + canonical(v[name])) + '}'
`

// patchCase is a patch for a document, and what it makes of it, "" where it does not apply.
type patchCase struct {
	Before, Patch, After string
}

// patchCases returns those in testdata, and some that are drawn.
func patchCases(t *testing.T) (cases []patchCase) {
	t.Helper()
	names, err := filepath.Glob("../testdata/diff/*.txtar")
	if err != nil || len(names) < 20 {
		t.Fatalf("%d cases, %v", len(names), err)
	}
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts := make(map[string][]byte)
		for _, f := range archive.Files {
			texts[f.Name] = f.Data
		}
		cases = append(cases, patchBetween(t, texts["before"], texts["after"]), patchBetween(t, texts["after"], texts["before"]))
	}
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 0))
	bad := 0
	for range 500 {
		c := drawPatch(t, r)
		if c.After == "" {
			bad++
		}
		cases = append(cases, c)
	}
	if bad < 20 || bad > 400 {
		t.Fatalf("%d of %d patches do not apply", bad, len(cases))
	}
	return append(cases, patchCase{`{"n":1}`, `[{"op":"replace","path":"/n","value":2}]`, `{"n":2}`})
}

func patchBetween(t *testing.T, before, after []byte) patchCase {
	t.Helper()
	old, err := jsondiff.Parse(before)
	if err != nil {
		t.Fatal(err)
	}
	document, patch, err := new(jsondiff.Differ).Diff(old, after)
	if err != nil {
		t.Fatal(err)
	}
	return patchCase{string(old.Bytes()), string(patch.Bytes()), string(document.Bytes())}
}

// drawPatch draws a document and a patch for it, a few of which do not apply.
func drawPatch(t *testing.T, r *rand.Rand) patchCase {
	t.Helper()
	encode := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before := drawValue(r, 4)
	now, err := oracle.Value([]byte(encode(before)))
	if err != nil {
		t.Fatal(err)
	}
	operations := []map[string]any{}
	for range 1 + r.IntN(8) {
		operation := drawOperation(r, now)
		operations = append(operations, operation)
		if now, err = oracle.Apply(now, []byte(encode([]any{operation}))); err != nil {
			return patchCase{encode(before), encode(operations), ""}
		}
	}
	return patchCase{encode(before), encode(operations), encode(now)}
}

var names = []string{"", "a", "b", "__proto__", "a/b", "~", "~1", "0", "1", "length", "constructor", "toString", "é😀\u2028"}

func drawValue(r *rand.Rand, depth int) any {
	switch kind := r.IntN(10); {
	case depth > 0 && kind < 4:
		v := make(map[string]any)
		for range r.IntN(5) {
			v[names[r.IntN(len(names))]] = drawValue(r, depth-1)
		}
		return v
	case depth > 0 && kind < 7:
		v := []any{}
		for range r.IntN(5) {
			v = append(v, drawValue(r, depth-1))
		}
		return v
	}
	return []any{nil, true, false, "", "text", 0, 1, -1.5, 1e300}[r.IntN(9)]
}

// drawOperation draws one that most likely applies to doc.
func drawOperation(r *rand.Rand, doc any) map[string]any {
	path, op := "", "replace"
	for at := doc; ; {
		var name string
		held := true
		switch in := at.(type) {
		case map[string]any:
			name = names[r.IntN(len(names))]
			at, held = in[name]
		case []any:
			i := r.IntN(len(in) + 1)
			name, held = fmt.Sprint(i), i < len(in)
			if held {
				at = in[i]
			}
			if r.IntN(40) == 0 {
				name = []string{"-", "-1", "01", "length", "", "9", "x"}[r.IntN(7)]
			}
			if r.IntN(3) == 0 {
				held = false // insert here
			}
		default:
			if r.IntN(40) > 0 {
				goto end
			}
			name = "0" // through what has no members
		}
		path += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		if !held {
			op = "add"
			if r.IntN(40) == 0 {
				op = "remove"
			}
			break
		}
		if r.IntN(3) == 0 {
			op = []string{"replace", "remove"}[r.IntN(2)]
			break
		}
	}
end:
	operation := map[string]any{"op": op, "path": path}
	if op != "remove" {
		operation["value"] = drawValue(r, 2)
	}
	return operation
}

// feed is a server that sends the documents and patches of cases. After a patch that does
// not apply it waits for the client to come back.
type feed struct {
	t     *testing.T
	cases []patchCase

	mu   sync.Mutex // guards next
	next int
}

func (f *feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id := r.FormValue("lastEventId"); id != "" {
		f.t.Errorf("case %d: it comes back with id %q", f.next, id)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for f.next < len(f.cases) {
		c, i := f.cases[f.next], f.next
		fmt.Fprintf(w, "data: [{\"op\":\"replace\",\"path\":\"\",\"value\":%s}]\nid: before%d\n\n", c.Before, i)
		fmt.Fprintf(w, "data: %s\nid: after%d\n\n", c.Patch, i)
		http.NewResponseController(w).Flush()
		f.next++
		if c.After == "" {
			break
		}
	}
	<-r.Context().Done()
}

// TestClientModuleApplies lets the module apply patches in a browser, and an oracle too.
func TestClientModuleApplies(t *testing.T) {
	f := &feed{t: t, cases: patchCases(t)}
	cases, err := json.Marshal(f.cases)
	if err != nil {
		t.Fatal(err)
	}
	browser := startBrowser(t)
	files := map[string]string{
		"/poll_sse.js": readClient(t, "poll_sse.js"),
		"/cases.json":  string(cases),
		"/": modulePage + `
			const seen = {}, kept = [], wrong = []
			const feed = live('/feed', { onstatus: s => { if (s === 'connecting') kept.push(canonical(feed.value)) } })
			feed.subscribe(doc => {
				if (seen[feed.id]) wrong.push(feed.id + ' is told twice')
				seen[feed.id] = canonical(doc)
			})
			globalThis.arrived = id => id in seen
			globalThis.judge = async () => {
				let last
				const cases = await (await fetch('/cases.json')).json()
				cases.forEach(({ Before, Patch, After }, i) => {
					for (const [id, text] of [['before' + i, Before], ['after' + i, After]]) {
						if (!text) {
							if (seen[id]) wrong.push('applied: ' + Before + Patch)
							continue
						}
						const want = canonical(JSON.parse(text))
						if ((seen[id] ?? last) !== want) wrong.push(id + ' is ' + seen[id] + ' want ' + want + Before + Patch)
						last = want
					}
					if (!After && kept.shift() !== last) wrong.push('not kept: ' + Before + Patch)
				})
				if (Object.keys(Object.prototype).length) wrong.push('polluted')
				globalThis.verdict = [...wrong, ...errors, ...kept.map(text => 'reconnected with ' + text)]
			}
		</script>`,
	}
	site := http.NewServeMux()
	site.Handle("/feed", f)
	tab := openTab(t, browser, serveFiles(t, files, site))
	last := fmt.Sprint("after", len(f.cases)-1)
	eventually(t, "all cases are sent", func() bool { return evaluate[bool](t, tab, `globalThis.arrived?.('`+last+`') ?? false`) })
	evaluate[bool](t, tab, `judge(), true`)
	eventually(t, "the page has judged", func() bool { return evaluate[bool](t, tab, `'verdict' in globalThis`) })
	for _, wrong := range evaluate[[]string](t, tab, `verdict`) {
		t.Errorf("%.2000s", wrong)
	}
}

// followPage tells of each document that a subscriber is told, with the event that it
// came from.
const followPage = modulePage + `
	let raw
	globalThis.EventSource = class extends EventSource {
		constructor(...args) {
			super(...args)
			this.addEventListener('message', e => raw = e)
		}
	}
	const prices = globalThis.prices = live(location.hash.slice(1)), seen = globalThis.seen = []
	prices.subscribe(doc => seen.push({ id: prices.id, type: '', data: raw.data, doc: JSON.stringify(doc) }))
</script>`

// TestClientModuleFollows plays a scenario to the module in Chromium.
func TestClientModuleFollows(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	browser := startBrowser(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(followPage), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScenario(t, plainAndGzip+`
	poll_sse /other {
		client /poll_sse.js
	}
	@files path /
	root * `+dir+`
	file_server @files`)
	for _, path := range []string{"/api/plain", "/api/gzip"} {
		s.follow("the client module", path, func(url string) func() []report {
			tab := openTab(t, browser, strings.TrimSuffix(url, path)+"/#"+path)
			return func() (all []report) {
				type followed struct {
					report
					Doc string `json:"doc"`
				}
				for _, e := range evaluate[[]followed](t, tab, `globalThis.seen?.splice(0) ?? []`) {
					if doc := value(t, e.Doc); !reflect.DeepEqual(doc, marketValue(versionOf(doc))) {
						t.Errorf("event %s leads to %.1500s", e.ID, e.Doc)
					}
					all = append(all, e.report)
				}
				if errors := evaluate[[]string](t, tab, `globalThis.errors ?? []`); len(errors) > 0 {
					t.Errorf("errors in the page: %q", errors)
				}
				return all
			}
		})
	}
	s.play(len(cuts))
}

// TestClientModuleWalks follows documents that change at random.
func TestClientModuleWalks(t *testing.T) {
	browser := startBrowser(t)
	seed := seedOf(t)
	walk := promise.NewWalk(rand.New(rand.NewPCG(seed, 0)), "walk")
	u := newUpstream(t, walk.String())
	c := start(t, u.site("interval 10ms\nclient /poll_sse.js"))
	tab := openTab(t, browser, serve(t, c, map[string]string{"/": modulePage + `
		const statuses = globalThis.statuses = []
		const walk = live('/api/walk', { onstatus: status => statuses.push(status) })
		globalThis.shows = text => walk.value !== undefined && canonical(walk.value) === canonical(JSON.parse(text))
	</script>`}))
	for i := range 150 {
		text := walk.String()
		u.set(text)
		c.eventually(fmt.Sprintf("step %d arrives: %.1000s", i, text), func() bool {
			return evaluate[bool](t, tab, fmt.Sprintf(`globalThis.shows?.(%s) ?? false`, quote(t, text)))
		})
		walk.Step()
	}
	if got := evaluate[[]string](t, tab, `statuses`); !slices.Equal(got, []string{"live"}) {
		t.Errorf("the status was %q: a patch did not apply", got)
	}
}

// quote returns text as a string of JavaScript.
func quote(t *testing.T, text string) string {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(quoted)
}
