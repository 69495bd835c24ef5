package pollsse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
	"github.com/pollsse/caddy-poll-sse/internal/oracle"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// follower reads a view from its beginning.
type follower struct {
	t      *testing.T
	v      *view
	cursor eventID
}

// next returns what the events since the last call say, with their types.
func (f *follower) next() (said []string) {
	f.t.Helper()
	b := f.v.log.after(f.cursor, f.v.generation, nil)
	f.cursor = b.cursor
	for _, event := range b.events {
		e, err := sse.NewReader(bytes.NewReader(event.text)).Next()
		if err != nil {
			f.t.Fatal(err)
		}
		said = append(said, strings.TrimSpace(e.Type+" "+e.Data))
	}
	return said
}

func (f *follower) expect(want ...string) {
	f.t.Helper()
	if got := f.next(); !slices.Equal(got, want) {
		f.t.Errorf("%q, want %q", got, want)
	}
}

func whole(value string) string { return `[{"op":"replace","path":"","value":` + value + `}]` }

// padded is long enough that a patch is sent.
func padded(members string) string { return `{` + members + `,"x":"` + strings.Repeat("x", 200) + `"}` }

func TestViewsSendTheirPartOnly(t *testing.T) {
	h := new(Handler)
	r := fed(h)
	follow := func(format, pointer string) *follower {
		return &follower{t: t, v: r.watch(h, wish{format, pointer})}
	}
	item := follow(formatPatch, "/list/[id=2]")
	full := follow(formatFull, "/list/[id=2]/n")
	merged := follow(formatMerge, "/list/0")
	if r.feed(t, `{"list":[]}`, 1); true {
		item.expect(whole("null"))
		full.expect("null")
		merged.expect("snapshot null")
	}
	two := func(n int) string { return padded(fmt.Sprintf(`"id":2,"n":%d`, n)) }
	r.feed(t, `{"list":[`+two(7)+`]}`, 1)
	item.expect(whole(two(7)))
	full.expect("7")
	merged.expect("snapshot " + two(7))
	if !r.feed(t, `{"list":[{"id":1},`+two(7)+`]}`, 1) { // moves on
		t.Error("no news")
	}
	item.expect()
	full.expect()
	merged.expect(`snapshot {"id":1}`)
	if r.feed(t, `{"list":[{"id":1},`+two(7)+`],"other":1}`, 1) {
		t.Error("a change elsewhere is news")
	}
	r.feed(t, `{"list":[`+padded(`"id":1`)+`,`+two(8)+`]}`, 1)
	item.expect(`[{"op":"replace","path":"/n","value":8}]`)
	full.expect("8")
	merged.expect(`{` + padded("")[2:]) // its only new member
	r.feed(t, `{"list":[`+padded(`"id":1,"y":0`)+`]}`, 1)
	item.expect(whole("null"))
	full.expect("null")
	merged.expect(`{"y":0}`)
	if again := r.watch(h, wish{formatPatch, "/list/[id=2]"}); again != item.v || again.streams != 2 {
		t.Error("equal wishes do not share a view")
	}
	if late := follow(formatFull, "/list/0/id"); true {
		late.expect("1")
	}
}

// Parts do not keep the memory of the documents that they were in.
func TestPartsAreCopies(t *testing.T) {
	h := new(Handler)
	r := fed(h)
	v := r.watch(h, wish{formatPatch, "/a"})
	r.feed(t, `{"a":[1]}`, 1)
	if &v.sent.Bytes()[0] == &r.document.Bytes()[len(`{"a":`)] {
		t.Error("the part is not copied")
	}
}

func TestViewsTakeKeysAlong(t *testing.T) {
	h := &Handler{Key: []arrayKey{{Pointer: "/*/stations", Member: "code"}}}
	r := fed(h)
	list := &follower{t: t, v: r.watch(h, wish{formatPatch, "/data/stations"})}
	data := &follower{t: t, v: r.watch(h, wish{formatPatch, "/data"})}
	all := &follower{t: t, v: r.watch(h, wish{formatPatch, ""})}
	item := func(id, code, n int) string {
		return fmt.Sprintf(`{"id":%d,"code":%d,"f":{"a":"%0500d","n":%d}}`, id, code, code, n)
	}
	in := func(list string) string { return `{"data":{"stations":[` + list + `]}}` }
	r.feed(t, in(item(1, 1, 0)+","+item(2, 2, 0)+","+item(3, 3, 0)), 1)
	r.feed(t, in(item(8, 2, 1)+","+item(9, 3, 1)), 1)
	for f, path := range map[*follower]string{list: "/0", data: "/stations/0", all: "/data/stations/0"} {
		f.cursor = f.v.log.versions[0].id
		if got := f.next(); len(got) != 1 || !strings.HasPrefix(got[0], `[{"op":"remove","path":"`+path+`"},`) {
			t.Errorf("%q", got)
		}
	}
}

// Ignored changes wait for a real one, and what was sent is what counts.
func TestIgnoredChangesRideAlong(t *testing.T) {
	h := &Handler{Ignore: []string{"/t", "/list/*/seen"}}
	r := fed(h)
	doc := func(time, seen, n int) string {
		return padded(fmt.Sprintf(`"t":%d,"list":[{"seen":%d,"n":%d}]`, time, seen, n))
	}
	all := &follower{t: t, v: r.watch(h, wish{formatPatch, ""})}
	merged := &follower{t: t, v: r.watch(h, wish{formatMerge, ""})}
	item := &follower{t: t, v: r.watch(h, wish{formatFull, "/list/0"})}
	only := &follower{t: t, v: r.watch(h, wish{formatFull, "/t"})}
	r.feed(t, doc(1, 1, 1), 1)
	all.expect(whole(doc(1, 1, 1)))
	merged.expect("snapshot " + doc(1, 1, 1))
	item.expect(`{"seen":1,"n":1}`)
	only.expect("1") // who selects what is ignored wants it
	for i := range 3 {
		if !r.feed(t, doc(2+i, 2+i, 1), 1) {
			t.Error("no news")
		}
		only.expect(fmt.Sprint(2 + i))
	}
	all.expect()
	if late := (&follower{t: t, v: all.v}); true {
		late.expect(whole(doc(1, 1, 1))) // what was sent, so that the next patch applies
	}
	r.feed(t, doc(5, 1, 2), 1) // seen is as it was when it was sent
	all.expect(`[{"op":"replace","path":"/t","value":5},{"op":"replace","path":"/list/0/n","value":2}]`)
	merged.expect(`{"t":5,"list":[{"seen":1,"n":2}]}`)
	item.expect(`{"seen":1,"n":2}`)
	only.expect("5")
	if r.feed(t, doc(5, 6, 2), 1) {
		t.Error("ignored changes are news")
	}
	r.feed(t, doc(1, 1, 1), 1) // back
	all.expect(`[{"op":"replace","path":"/t","value":1},{"op":"replace","path":"/list/0/n","value":1}]`)
	r.feed(t, padded(`"list":[]`), 1) // a member appears and vanishes as it changes
	all.expect(`[{"op":"remove","path":"/t"},{"op":"remove","path":"/list/0"}]`)
	r.feed(t, padded(`"t":1,"list":[]`), 1)
	all.expect()
	r.feed(t, padded(`"list":[],"t":2`), 1)
	all.expect()
}

// What a newer configuration has polled is not shown in the old one's words.
func TestNewGenerationsIgnoreNothing(t *testing.T) {
	h := &Handler{Ignore: []string{"/t"}}
	r := fed(h)
	f := &follower{t: t, v: r.watch(h, wish{formatFull, ""})}
	r.feed(t, `{"t":1}`, 1)
	r.feed(t, `{"t":2}`, 1)
	f.expect(`{"t":1}`)
	r.feed(t, `{"t":2}`, 2) // the same bytes as those held
	f.expect(`{"t":2}`)
	r.feed(t, `{"t":3}`, 2)
	f.expect()
	if b := f.v.log.after(eventID{}, 1, nil); len(b.events) != 0 {
		t.Errorf("generation 1 is sent %q", text(b.events))
	}
}

func TestViewsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Selectable: []string{"/*"}, MaxViews: 3})
		s.setAnswer(answering(`{"a":1,"b":2,"c":3,"d":4}`))
		open := func(name string) *client {
			c := s.get(s.h, "/?sse_select=/"+name)
			synctest.Wait()
			return c
		}
		names := func() (names []string) {
			for _, r := range s.h.pool.byKey {
				r.mu.Lock()
				for w := range r.views {
					names = append(names, strings.TrimPrefix(w.pointer, "/"))
				}
				r.mu.Unlock()
			}
			slices.Sort(names)
			return names
		}
		leave := func(c *client) {
			c.leave()
			<-c.done
			time.Sleep(time.Second)
		}
		a, b, c := open("a"), open("b"), open("c")
		whole := s.get(s.h, "/?sse_format=merge")
		synctest.Wait()
		if len(whole.events()) != 1 {
			t.Errorf("who selects nothing is refused: %q", whole.text())
		}
		leave(whole)
		d := open("d")
		<-d.done
		r := sse.NewReader(strings.NewReader(d.text()))
		if _, err := r.Next(); err == nil || r.Retry < 15*time.Second || d.status != 200 {
			t.Errorf("one view too many: %d %q", d.status, d.text())
		}
		leave(b)
		leave(a)
		if d = open("d"); !slices.Equal(names(), []string{"a", "c", "d"}) {
			t.Errorf("views %v; b has been idle for longest", names())
		}
		was := a.events()[0].ID
		if a = open("a"); a.events()[0].ID != was {
			t.Error("a lingering view was made anew")
		}
		leave(c)
		time.Sleep(28 * time.Second)
		if !slices.Contains(names(), "c") {
			t.Error("a view does not linger")
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if !slices.Equal(names(), []string{"a", "d"}) {
			t.Errorf("views %v", names())
		}
		if s.resources() != 1 {
			t.Errorf("%d resources for the views of one", s.resources())
		}
		s.close(a, d)
	})
}

// Views end on time, even if no poll is good and nobody joins.
func TestViewsEndWhilePollsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Selectable: []string{"/*"}})
		c, gone := s.get(s.h, "/"), s.get(s.h, "/?sse_select=/n")
		s.waitForPolls(1)
		gone.leave()
		s.setAnswer(status(500))
		time.Sleep(61 * time.Second) // linger, and the longest backoff
		synctest.Wait()
		for _, r := range s.h.pool.byKey {
			r.mu.Lock()
			if len(r.views) != 1 {
				t.Errorf("%d views", len(r.views))
			}
			r.mu.Unlock()
		}
		s.close(c, gone)
	})
}

func TestWishes(t *testing.T) {
	h := &Handler{Format: formatMerge, Select: "/data", Selectable: []string{"/data/stations/*", "/x", "/data/*/name"}}
	for _, c := range []struct {
		query, format, pointer string
		notices                notices
		err                    string
	}{
		{"", "merge", "/data", noNotices, ""},
		{"a=b", "merge", "/data", noNotices, ""},
		{"sse_format=", "merge", "/data", noNotices, ""},
		{"sse_format=patch", "patch", "/data", noNotices, ""},
		{"a&sse_format=full&b", "full", "/data", noNotices, ""},
		{"sse_format=Full", "", "", noNotices, "sse_format must be patch, full or merge"},
		{"sse_select=/data", "merge", "/data", noNotices, ""},
		{"sse_select=%2Fx", "merge", "/x", noNotices, ""},
		{"sse_select=/data/stations/3", "merge", "/data/stations/3", noNotices, ""},
		{"sse_select=/data/stations/%5Bid=4%5D", "merge", "/data/stations/[id=4]", noNotices, ""},
		{"sse_select=/data/stations/[name=a%20b~1c]", "merge", "/data/stations/[name=a b~1c]", noNotices, ""},
		{"sse_select=/data/a/name", "merge", "/data/a/name", noNotices, ""},
		{"sse_select=/data/stations", "", "", noNotices, "sse_select=/data/stations is not selectable"},
		{"sse_select=/data/stations/3/x", "", "", noNotices, "is not selectable"},
		{"sse_select=", "", "", noNotices, "is not selectable"},
		{"sse_select=/secret", "", "", noNotices, "is not selectable"},
		{"sse_select=x", "", "", noNotices, `sse_select must be a JSON Pointer (RFC 6901), not "x"`},
		{"sse_select=/data/stations/" + strings.Repeat("x", 1<<10), "", "", noNotices, "sse_select is too long"},
		{"sse_select=/x;y", "", "", noNotices, "is not selectable"},
		{"sse_select=/100%", "", "", noNotices, "is not selectable"},
		{"SSE_SELECT=/secret", "", "", noNotices, "is not selectable"},
		{"sse%5Fselect=/secret", "", "", noNotices, "is not selectable"},
		{"sse_format=full;q", "", "", noNotices, "sse_format must be"},
		{"sse_select=/x~2", "", "", noNotices, "must be a JSON Pointer"},
		{"sse_status", "merge", "/data", turnNotices, ""},
		{"sse_status=1", "merge", "/data", turnNotices, ""},
		{"sse_status=true&sse_format=full", "full", "/data", turnNotices, ""},
		{"sse_status=0", "merge", "/data", noNotices, ""},
		{"sse_status=false", "merge", "/data", noNotices, ""},
		{"sse_status=polls", "", "", noNotices, "or polls where the option inspect is set"},
		{"sse_status=yes", "", "", noNotices, "sse_status must be true or false"},
	} {
		r := received(t, "/?"+c.query, nil)
		w, notices, err := h.wish(r)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %s", c.query, err, c.err)
			}
		case err != nil || w != wish{c.format, c.pointer} || notices != c.notices:
			t.Errorf("%s: %v, %v, %v", c.query, w, notices, err)
		}
	}
	h.Inspect = "/inspect"
	if _, notices, err := h.wish(received(t, "/?sse_status=polls", nil)); notices != pollNotices || err != nil {
		t.Errorf("%v, %v", notices, err)
	}
	for _, pointer := range []string{"", "/a"} { // nothing is selectable
		r := received(t, "/?sse_select="+pointer, nil)
		if _, _, err := (&Handler{Format: formatPatch}).wish(r); (err == nil) != (pointer == "") {
			t.Errorf("%q: %v", pointer, err)
		}
	}
}

// What the client asks for counts, however the route rewrites it.
func TestWishesOfRewrittenRequests(t *testing.T) {
	h := &Handler{Format: formatPatch, Selectable: []string{"/a"}}
	r := received(t, "/live?sse_format=full&sse_select=/a&sse_status&lastEventId=x&padding=true", func(r *http.Request) {
		r.URL.Path, r.URL.RawQuery = "/v2", "station=5"
	})
	if w, notices, err := h.wish(r); err != nil || w != (wish{formatFull, "/a"}) || notices != turnNotices {
		t.Errorf("%v, %v, %v", w, notices, err)
	}
	if lastEventID(r) != "x" || len(preamble(r, time.Second)) < 2<<10 {
		t.Errorf("id %q, preamble of %d bytes", lastEventID(r), len(preamble(r, time.Second)))
	}
}

// Who finds a view while it is made waits until it is.
func TestViewsAreFilledBeforeTheyAreSeen(t *testing.T) {
	h := new(Handler)
	r := fed(h)
	r.feed(t, `{"a":"`+strings.Repeat("x", 4<<20)+`"}`, 1)
	for range 10 {
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				v := r.watch(h, wish{formatFull, "/a"})
				if text, _, _, _ := v.log.newest(nil, 1); text == nil {
					t.Error("the view is empty")
				}
				r.unwatch(h, v)
			})
		}
		clients.Wait()
		for r.dropViewLocked() {
		}
	}
}

// What is not allowed is said, whatever the format, and nothing is polled for it.
func TestBadWishesAreAnswered(t *testing.T) {
	s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
	for _, query := range []string{"sse_format=x", "sse_select=/a", "sse_status=x"} {
		for _, header := range [][]string{{"Accept", "text/event-stream"}, {"Prefer", "wait=1"}} {
			c := s.request(s.h, "GET", "/?"+query, header...)
			<-c.done
			if c.status != 400 || !strings.Contains(c.text(), query[:6]) {
				t.Errorf("%s: %d %q", query, c.status, c.text())
			}
		}
	}
	if s.count() != 0 {
		t.Errorf("%d polls", s.count())
	}
	s.close()
}

// A reader is a client of a view that rebuilds the document.
type reader struct {
	wish
	follower
	generation uint64
	doc        any
}

// read applies what has come.
func (c *reader) read() {
	c.t.Helper()
	b := c.v.log.after(c.cursor, c.generation, nil)
	c.cursor = b.cursor
	for _, event := range b.events {
		e, err := sse.NewReader(bytes.NewReader(event.text)).Next()
		if err != nil {
			c.t.Error(err)
		}
		data, err := oracle.Value([]byte(e.Data))
		switch {
		case err != nil:
			c.t.Error(err)
		case e.Type == eventSnapshot || c.format == formatFull:
			c.doc = data
		case c.format == formatMerge:
			c.doc = oracle.Merge(c.doc, data)
		default:
			if c.doc, err = oracle.Apply(c.doc, []byte(e.Data)); err != nil {
				c.t.Errorf("%v: %s", err, e.Data)
			}
		}
	}
}

// randomDocument makes one of few documents that are alike, with the generation in it.
func randomDocument(r *rand.Rand, generation uint64) string {
	value := func() string {
		all := []string{"null", "1", "2", `"s"`, `"\u0073"`, "[null,1]", `{"a":null}`, `{"a":1}`, `{"a":1,"b":[1]}`, `{"b":[1],"a":1}`, "{}"}
		return all[r.IntN(len(all))]
	}
	var items []string
	for range r.IntN(4) {
		items = append(items, fmt.Sprintf(`{"id":%d,"t":%d,"o":%s}`, r.IntN(4), r.IntN(3), value()))
	}
	members := []string{fmt.Sprintf(`"generation":%d`, generation), `"filler":"` + strings.Repeat("x", r.IntN(2)*500) + `"`}
	for _, member := range []string{fmt.Sprintf(`"t":%d`, r.IntN(3)), `"list":[` + strings.Join(items, ",") + `]`, `"m":{"a":` + value() + `,"t":` + value() + `}`} {
		if r.IntN(5) > 0 {
			members = append(members, member)
		}
	}
	r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return "{" + strings.Join(members, ",") + "}"
}

// Whatever the documents and the wishes, who has read what was sent has the document, but
// for what is ignored, and none of a newer generation's.
func TestViewsRandomly(t *testing.T) {
	for range 300 {
		seed := rand.Uint64()
		if viewRandomly(t, rand.New(rand.NewPCG(seed, 0))); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func viewRandomly(t *testing.T, r *rand.Rand) {
	h := &Handler{MaxViews: 3 + r.IntN(20), Linger: caddy.Duration(1 + r.Int64N(2)*int64(time.Hour)), History: history{Events: 1 + r.IntN(20)}}
	for _, pattern := range []string{"/t", "/list/*/t", "/*/t", "/m/*", "/list/*/o/a"} {
		if r.IntN(3) == 0 {
			h.Ignore = append(h.Ignore, pattern)
		}
	}
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	res := fed(h)
	generation, text := uint64(1), randomDocument(r, 1)
	var readers []*reader
	join := func(c *reader) {
		c.t, c.format, c.generation = t, pick(formatPatch, formatFull, formatMerge), max(c.generation, generation-uint64(r.IntN(2)))
		if c.v = res.watch(h, c.wish); c.v != nil {
			readers = append(readers, c)
		}
	}
	for range 60 {
		if r.IntN(12) == 0 {
			generation++
		}
		switch r.IntN(4) {
		case 0, 1:
			text = randomDocument(r, generation)
		case 2:
			text = strings.ReplaceAll(text, `"t":1`, `"t":2`)
		}
		res.feed(t, pick(text, strings.ReplaceAll(text, ":", " : ")), generation)
		if res.endViews(); r.IntN(2) == 0 {
			join(&reader{wish: wish{pointer: pick("", "/list", "/list/0", "/list/[id=2]", "/m", "/m/a", "/none", "/t")}})
		}
		if n := len(readers); n > 0 && r.IntN(4) == 0 { // one leaves, and perhaps comes back for another format
			i := r.IntN(n)
			c := readers[i]
			readers = slices.Delete(readers, i, i+1)
			if res.unwatch(h, c.v); r.IntN(2) == 0 {
				join(c)
			}
		}
		root, err := oracle.Value([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range readers {
			if r.IntN(4) == 0 {
				continue // reads later
			}
			if c.read(); strings.Contains(fmt.Sprint(c.doc), fmt.Sprintf("generation:%d", c.generation+1)) {
				t.Fatalf("generation %d sees %v", c.generation, c.doc)
			}
			if c.generation < generation {
				continue
			}
			want, _ := oracle.Find(root, c.pointer)
			var ignored []string
			for _, pattern := range h.Ignore {
				if rest, ok := jsondiff.Rebase(pattern, c.pointer); ok && rest != "" {
					ignored = append(ignored, rest)
				}
			}
			if got := oracle.Without(c.doc, ignored...); !reflect.DeepEqual(got, oracle.Without(want, ignored...)) {
				t.Fatalf("%v without %q has %v, want %v", c.wish, h.Ignore, c.doc, want)
			}
			if text, _, has, _ := c.v.log.newest([]eventID{c.cursor}, c.generation); !has {
				t.Fatalf("%v: the log has %s, the client %v", c.wish, text, c.doc)
			}
		}
	}
}

// Views are made while others are published.
func TestViewsConcurrently(t *testing.T) {
	h := &Handler{MaxViews: 4, Linger: 1, Ignore: []string{"/t"}}
	res := fed(h)
	res.feed(t, randomDocument(rand.New(rand.NewPCG(1, 1)), 1), 1)
	var clients sync.WaitGroup
	over := make(chan struct{})
	for i := range 4 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 2))
			for {
				select {
				case <-over:
					return
				default:
				}
				c := &reader{wish: wish{formatPatch, []string{"", "/list", "/m", "/t", "/list/0"}[r.IntN(5)]}, generation: 1}
				if c.t, c.v = t, res.watch(h, c.wish); c.v != nil {
					c.read()
					c.read()
					res.unwatch(h, c.v)
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(3, 3))
	for range 1000 {
		res.feed(t, randomDocument(r, 1), 1)
		res.endViews()
	}
	close(over)
	clients.Wait()
}

// Who wishes merge patches of a whole document is sent these, not the poll's own patch.
func TestMergePatchesOfTheWhole(t *testing.T) {
	h := new(Handler)
	r := fed(h)
	f := &follower{t: t, v: r.watch(h, wish{formatMerge, ""})}
	for n, want := range []string{"snapshot " + padded(`"n":0`), `{"n":1}`, `{"n":2}`} {
		r.feed(t, padded(fmt.Sprintf(`"n":%d`, n)), 1)
		f.expect(want)
	}
}

// Of whole documents only the newest is kept.
func TestFullViewsHaveNoHistory(t *testing.T) {
	h := new(Handler)
	r := fed(h)
	v := r.watch(h, wish{formatFull, ""})
	for n := range 3 {
		r.feed(t, fmt.Sprint(n), 1)
	}
	if len(v.log.versions) != 1 || v.log.versions[0].event != nil {
		t.Errorf("%d versions", len(v.log.versions))
	}
}

// Who selects a part of what is ignored wants it.
func TestPartsOfWhatIsIgnored(t *testing.T) {
	h := &Handler{Ignore: []string{"/a/*"}}
	r := fed(h)
	f := &follower{t: t, v: r.watch(h, wish{formatFull, "/a/b/c"})}
	for n := range 3 {
		if news := r.feed(t, fmt.Sprintf(`{"a":{"b":{"c":%d}},"n":%d}`, n, n), 1); !news {
			t.Errorf("version %d: news %v", n, news)
		}
	}
	f.expect("2")
}

// A view that is followed again does not give way.
func TestFollowedViewsStay(t *testing.T) {
	h := &Handler{MaxViews: 2}
	r := fed(h)
	a, b := wish{formatPatch, "/a"}, wish{formatPatch, "/b"}
	r.unwatch(h, r.watch(h, a))
	r.watch(h, a)
	r.watch(h, b)
	if v := r.watch(h, wish{formatPatch, "/c"}); v != nil || r.views[a] == nil || r.views[b] == nil {
		t.Errorf("%v, views %v", v, r.views)
	}
	r.unwatch(h, r.views[a])
	if v := r.watch(h, wish{formatPatch, "/c"}); v == nil || r.views[a] != nil || r.views[b] == nil {
		t.Errorf("%v, views %v", v, r.views)
	}
}

// After a comparison has failed the whole is sent, whatever is ignored.
func TestForgottenViewsSendTheWhole(t *testing.T) {
	h := &Handler{Ignore: []string{"/t"}}
	r := fed(h)
	f := &follower{t: t, v: r.watch(h, wish{formatPatch, ""})}
	r.feed(t, `{"t":1}`, 1)
	f.expect(whole(`{"t":1}`))
	r.forget()
	if !r.feed(t, `{"t":2}`, 1) {
		t.Error("no news")
	}
	f.expect(whole(`{"t":2}`))
}
