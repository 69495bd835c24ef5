package integration

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/histories"
	"github.com/pollsse/caddy-poll-sse/internal/oracle"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// Recorded histories come out of the streams as they went in, whatever happens to
// the connections.
func TestHistories(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	replayed := histories.Recorded(t)
	if len(replayed) == 0 {
		t.Log("POLL_SSE_HISTORIES is not set: generated histories only")
	}
	maps.Copy(replayed, generatedHistories())
	for name, versions := range replayed {
		for _, protocol := range []string{"h1", "h2"} {
			t.Run(name+"/"+protocol, func(t *testing.T) { replay(t, protocol, "", 10, newHistory(t, versions)) })
		}
	}
}

// Merge patches, and snapshots where they cannot say it, rebuild all histories too.
func TestHistoriesAsMergePatches(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	replayed := histories.Recorded(t)
	maps.Copy(replayed, generatedHistories())
	// Every second version says what a merge patch cannot.
	for i, v := range replayed["nested"] {
		if i%2 == 1 {
			replayed["nested"][i] = strings.Replace(v, `{"a":{`, `{"a":{"null":null,`, 1)
		}
	}
	for name, versions := range replayed {
		t.Run(name, func(t *testing.T) { replay(t, "h1", "merge", 3, newHistory(t, versions)) })
	}
}

// Nothing is sent for versions that differ in ignored members only.
func TestHistoriesWithIgnoredMembers(t *testing.T) {
	t.Parallel() // takes long, and mostly waits
	replayed := histories.Recorded(t)
	delete(replayed, "cdc-vaccination-states") // takes a minute, and shows nothing more
	maps.Copy(replayed, generatedHistories())
	for name, versions := range replayed {
		ignored := map[string]string{"usgs-quakes-2.5day": "/metadata/generated", "list": "/generated"}[name]
		if ignored == "" { // make one
			ignored = "/polls/*/at"
			for i, v := range versions {
				versions[i] = fmt.Sprintf(`{"data":%s,"polls":[{"at":%d}]}`, v, i)
			}
			versions = twice(versions)
		}
		t.Run(name, func(t *testing.T) {
			h := newHistory(t, versions, ignored)
			if all := newHistory(t, versions); len(h.distinct) >= len(all.distinct) {
				t.Fatalf("%d of %d versions differ in more than %s", len(h.distinct), len(all.distinct), ignored)
			}
			replay(t, "h2", "", 3, h)
		})
	}
}

// twice shows each version once more, at another time.
func twice(versions []string) (doubled []string) {
	for i, v := range versions {
		doubled = append(doubled, v, strings.Replace(v, fmt.Sprintf(`"polls":[{"at":%d}]`, i), fmt.Sprintf(`"polls":[{"at":-%d}]`, i+1), 1))
	}
	return doubled
}

// generatedHistories have the shapes of the recorded ones: lists with items that
// are inserted at the head and age out, maps, nested and reordered members, a
// timestamp that always changes, versions that are broken, and A → B → A.
func generatedHistories() map[string][]string {
	const versions = 150
	r := rand.New(rand.NewPCG(1, 2))
	note := func() string { return strings.Repeat("lorem ipsum ", 3+r.IntN(3)) }
	var list, object, nested []string
	var items []string
	id := 9007199254740993
	prices := make([]float64, 60)
	for v := range versions {
		for range r.IntN(3) {
			id++
			items = append([]string{fmt.Sprintf(`{"id":%d,"mag":%d.%d0,"place":null,"note":"%s é \u00e9"}`, id, r.IntN(9), r.IntN(9), note())}, items...)
		}
		if len(items) > 30 {
			items = items[:30-r.IntN(3)]
		}
		if len(items) > 3 && r.IntN(4) == 0 {
			i := r.IntN(len(items) - 1)
			items[i], items[i+1] = items[i+1], items[i]
		}
		list = append(list, fmt.Sprintf("{\n \"generated\": %d,\n \"features\": [%s]\n}\n", 1700000000000+v, strings.Join(items, ",\n")))

		for range r.IntN(4) {
			prices[r.IntN(len(prices))] = float64(r.IntN(10000)) / 100
		}
		var members []string
		for i, p := range prices {
			members = append(members, fmt.Sprintf(`"key %d/~": {"price": %v, "currency": "EUR"}`, i, p))
		}
		if v%7 == 0 {
			r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		}
		object = append(object, "{"+strings.Join(members, ",")+"}")

		nested = append(nested, fmt.Sprintf(`{"a":{"b":[[%d,2],{"c":{"":%d}}],"note":"%s"}}`, v%2, v%2, strings.Repeat("x", 500))) // A → B → A
	}
	broken := slices.Clone(list)
	for i, text := range []string{"", "{\"generated\":", "<html>busy</html>", "{}{}", "\ufeff{}", "\"\xff\"", "[1", "null null"} {
		broken[10+i*9] = text
	}
	return map[string][]string{"list": list, "object": object, "nested": nested, "broken": broken}
}

// history is what an upstream shows, one version per poll, but no faster than all
// connected clients see it.
type history struct {
	t        *testing.T
	versions []string
	ignored  []string
	merge    bool      // the events are merge patches
	largest  int       // bytes of a version
	distinct []version // valid, and different in value from the one before
	place    []int     // in distinct, by version; -1 where not valid

	mu      sync.Mutex
	at      int          // the version that is shown
	clients map[int]*int // where the connected clients are
	checked map[string]int
	parsed  struct {
		at  int
		doc any
	}
}

type version struct {
	text string
	sum  [sha256.Size]byte // of its canonical form
	said [sha256.Size]byte // of that, without what is ignored
}

// canonical spells equal values alike, and numbers as they are written.
func canonical(v any) [sha256.Size]byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return sha256.Sum256(text)
}

func newHistory(t *testing.T, versions []string, ignored ...string) *history {
	h := &history{t: t, versions: versions, ignored: ignored, clients: make(map[int]*int), checked: make(map[string]int)}
	h.parsed.at = -1
	for _, text := range versions {
		h.largest = max(h.largest, len(text))
		v, err := oracle.Value([]byte(text))
		if err != nil || !json.Valid([]byte(text)) || strings.Contains(text, "\xff") {
			h.place = append(h.place, -1)
			continue
		}
		said := canonical(oracle.Without(v, ignored...))
		if n := len(h.distinct); n == 0 || h.distinct[n-1].said != said {
			h.distinct = append(h.distinct, version{text, canonical(v), said})
		}
		h.place = append(h.place, len(h.distinct)-1)
	}
	return h
}

// ServeHTTP answers a poll with the version that is due.
func (h *history) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	if h.at+1 < len(h.versions) && h.everybodyIsThereLocked() {
		h.at++
	}
	text := h.versions[h.at]
	h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(text))))
	if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	io.WriteString(w, text)
}

func (h *history) everybodyIsThereLocked() bool {
	if len(h.clients) == 0 {
		return false
	}
	for _, at := range h.clients {
		if h.place[h.at] >= 0 && *at != h.place[h.at] {
			return false
		}
	}
	return true
}

// isOver reports whether the last version is shown.
func (h *history) isOver() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at == len(h.versions)-1
}

// enter says that client is connected; its place is then waited for. It returns the
// place up to which the client may have to catch up.
func (h *history) enter(client int, at *int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients[client] = at
	return slices.Max(h.place[:h.at+1])
}

func (h *history) leave(client int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, client)
}

// step returns the place of the version that an event makes of the one at from: the
// next one, or any later one where jump allows it.
func (h *history) step(from int, e sse.Event, jump bool) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	whole := strings.HasPrefix(e.Data, `[{"op":"replace","path":"",`)
	if h.merge {
		whole = e.Type == "snapshot"
	}
	if from < 0 && !whole {
		return 0, errors.New("the first event is no snapshot")
	}
	key := strconv.Itoa(from) + " " + e.ID + " " + e.Type + " " + e.Data
	to, ok := h.checked[key]
	if !ok {
		var err error
		if to, err = h.placeOf(e.ID); err != nil {
			return 0, err
		}
		if err = h.checkLocked(from, to, e); err != nil {
			return 0, err
		}
		h.checked[key] = to
	}
	if to != from+1 && !(to > from && whole && (jump || from < 0)) {
		return 0, fmt.Errorf("event %s leads from %d to %d", e.ID, from, to)
	}
	return to, nil
}

// placeOf reads the place out of an id: its sequence number counts the versions.
func (h *history) placeOf(id string) (int, error) {
	if len(id) < 25 {
		return 0, fmt.Errorf("id %q", id)
	}
	n, err := strconv.ParseInt(id[12:len(id)-12], 36, 0)
	if err == nil && int(n) >= len(h.distinct) {
		err = fmt.Errorf("id %q, but there are only %d versions", id, len(h.distinct))
	}
	return int(n), err
}

// checkLocked applies an event to the version at from and compares with the one at to.
func (h *history) checkLocked(from, to int, e sse.Event) error {
	if from >= 0 && h.parsed.at != from {
		doc, err := oracle.Value([]byte(h.distinct[from].text))
		if err != nil {
			return err
		}
		h.parsed.at, h.parsed.doc = from, doc
	}
	doc := h.parsed.doc
	if from < 0 {
		doc = nil
	}
	doc, err := h.apply(doc, e)
	if err != nil {
		return err
	}
	if canonical(doc) != h.distinct[to].sum {
		return fmt.Errorf("%s %.200s does not lead from %d to %d", e.Type, e.Data, from, to)
	}
	h.parsed.at, h.parsed.doc = to, doc
	return nil
}

// apply returns what an event makes of doc.
func (h *history) apply(doc any, e sse.Event) (any, error) {
	if !h.merge {
		return oracle.Apply(doc, []byte(e.Data))
	}
	v, err := oracle.Value([]byte(e.Data))
	if err == nil && e.Type != "snapshot" {
		v = oracle.Merge(doc, v)
	}
	return v, err
}

// replay shows a history to clients that wish its events in a format.
func replay(t *testing.T, protocol, format string, number int, h *history) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h.merge = format == "merge"
	u := newUpstream(t, "")
	u.setAnswer(h.ServeHTTP)
	options := "interval 5ms\nretry 1ms 2ms\n"
	if len(h.ignored) > 0 {
		options += "ignore " + strings.Join(h.ignored, " ")
	}
	c := start(t, u.site(options))

	var clients sync.WaitGroup
	var jumps, cuts, events, size int
	var mu sync.Mutex // guards what is summed up
	for i := range number {
		clients.Go(func() {
			r := &replayer{caddy: c, history: h, protocol: protocol, format: format, number: i, at: -1}
			r.rand = rand.New(rand.NewPCG(seed, uint64(i)))
			if err := r.run(); err != nil {
				t.Errorf("client %d: %v", i, err)
				h.leave(i)
			}
			mu.Lock()
			defer mu.Unlock()
			jumps, cuts = jumps+r.jumps, cuts+r.cuts
			if i == 0 { // is never cut
				events, size = r.events+r.skipped, r.size
			}
		})
	}
	clients.Wait()
	if t.Failed() {
		return
	}
	if events != len(h.distinct) {
		t.Errorf("the client that was never cut off was sent %d of %d versions", events, len(h.distinct))
	}
	outcome := func(name string) int { return c.metric(`caddy_poll_sse_resumes_total{outcome="` + name + `"}`) }
	slow := func(place string) int { return c.metric(`caddy_poll_sse_slow_snapshots_total{place="` + place + `"}`) }
	if outcome("snapshot") != 0 || slow("evicted") != 0 || outcome("digest") != 0 {
		t.Errorf("clients lost their place: %d snapshot, %d slow, %d digest", outcome("snapshot"), slow("evicted"), outcome("digest"))
	}
	if cuts > 20 && outcome("held")+outcome("smaller") == 0 {
		t.Error("nobody resumed")
	}
	if smaller := outcome("smaller") + slow("held"); jumps > smaller {
		t.Errorf("%d times a version was left out, but only %d snapshots were smaller", jumps, smaller)
	}
	var polled int
	for _, v := range h.versions {
		polled += len(v)
	}
	t.Logf("%d versions, %d valid and distinct; %d cuts, %d resumed by events, %d by a smaller snapshot, %d fell behind; %d events of %d bytes, polling: %d bytes (%.1f %%)",
		len(h.versions), len(h.distinct), cuts, outcome("held"), outcome("smaller"), slow("held"), events, size, polled, 100*float64(size)/float64(polled))
}

// replayer is one client.
type replayer struct {
	*caddy
	*history
	protocol string
	format   string
	number   int
	rand     *rand.Rand

	id      string
	at      int // guarded by the history's lock
	jumps   int
	skipped int // versions, by jumps
	cuts    int
	events  int
	size    int
}

func (r *replayer) run() error {
	for stuck := time.Now(); time.Since(stuck) < 4*time.Minute; {
		from := r.here()
		done, err := r.connectOnce()
		if done || err != nil {
			return err
		}
		if r.here() > from {
			stuck = time.Now()
		}
		r.cuts++
		time.Sleep(time.Duration(r.rand.IntN(60)) * time.Millisecond) // away for some versions
	}
	return fmt.Errorf("still at version %d of %d", r.at, len(r.distinct))
}

// connectOnce follows the stream until it is cut at a random byte.
func (r *replayer) connectOnce() (done bool, err error) {
	var header []string
	if r.number%2 == 1 {
		header = []string{"Accept-Encoding", "gzip"}
	}
	s, err := r.connect(r.protocol, "/api/history?sse_format="+r.format, r.id, header...)
	if err != nil {
		return false, err
	}
	defer s.close()
	budget := 1 << 40
	if r.number > 0 {
		budget = r.rand.IntN(8 * r.largest >> r.rand.IntN(6))
	}
	stream := sse.NewReader(decoded(s.response, &budgetReader{s.response.Body, budget}))
	ahead := r.enter(r.number, &r.at)
	defer r.leave(r.number)
	for {
		if r.here() == len(r.distinct)-1 {
			return true, r.expectNoMore(s)
		}
		timer := time.AfterFunc(patience, s.cancel)
		e, err := stream.Next()
		timer.Stop()
		switch {
		case errors.Is(err, errCut):
			return false, nil
		case errors.Is(err, context.Canceled):
			return false, errSilence
		case err != nil:
			return false, fmt.Errorf("at version %d: %w", r.at, err)
		}
		from := r.here()
		to, err := r.step(from, e, from < ahead)
		if err != nil {
			return false, err
		}
		if to > from+1 {
			r.skipped += to - from - 1
			if from >= 0 {
				r.jumps++
			}
		}
		r.history.mu.Lock()
		r.at = to
		r.history.mu.Unlock()
		r.id = e.ID
		r.events++
		r.size += e.Size
	}
}

// expectNoMore waits until all versions have been polled, for which there is no event.
func (r *replayer) expectNoMore(s *connection) error {
	if r.number > 0 {
		return nil
	}
	for began := time.Now(); !r.history.isOver(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > patience {
			return errors.New("the last version is not shown")
		}
	}
	time.AfterFunc(100*time.Millisecond, s.cancel)
	if e, err := s.Next(); err == nil {
		return fmt.Errorf("one more event: %.200s", e.Data)
	}
	return nil
}

func (r *replayer) here() int {
	r.history.mu.Lock()
	defer r.history.mu.Unlock()
	return r.at
}

var errCut = errors.New("cut")

// budgetReader ends a stream after so many bytes.
type budgetReader struct {
	r    io.Reader
	left int
}

func (c *budgetReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errCut
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}
