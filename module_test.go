package pollsse

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// site is a handler in front of a route that the test plays, without sockets, so
// that time is the test's own (testing/synctest).
type site struct {
	t      *testing.T
	h      *Handler
	server *caddyhttp.Server

	mu     sync.Mutex
	answer caddyhttp.HandlerFunc
	polls  []time.Time
}

// newSite provisions h. The test has to end all streams and call close.
func newSite(t *testing.T, h *Handler) *site {
	s := &site{t: t, server: new(caddyhttp.Server)}
	s.answer = func(w http.ResponseWriter, r *http.Request) error {
		_, err := w.Write([]byte(`{"n":1}`))
		return err
	}
	s.h = s.provision(h)
	return s
}

func (s *site) provision(h *Handler) *Handler {
	s.t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.WithValue(s.t.Context(), caddyhttp.ServerCtxKey, s.server)})
	s.t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		s.t.Fatal(err)
	}
	return h
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	s.polls = append(s.polls, time.Now())
	answer := s.answer
	s.mu.Unlock()
	return answer(w, r)
}

// resources counts what is polled or lingers.
func (s *site) resources() int {
	s.h.pool.mu.Lock()
	defer s.h.pool.mu.Unlock()
	return len(s.h.pool.byKey)
}

func (s *site) setAnswer(answer caddyhttp.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// waitForPolls lets time pass until n more polls have been answered.
func (s *site) waitForPolls(n int) {
	for n += s.count(); s.count() < n; {
		time.Sleep(time.Millisecond)
	}
	synctest.Wait()
}

func (s *site) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.polls)
}

// client is the other end of a request.
type client struct {
	header http.Header
	leave  context.CancelFunc
	done   chan struct{} // closed when the response has ended

	mu     sync.Mutex
	status int
	body   bytes.Buffer
	err    error
}

func (c *client) Header() http.Header { return c.header }

func (c *client) WriteHeader(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == 0 {
		c.status = status
	}
}

func (c *client) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.Write(p)
}

func (c *client) Flush() {}

// text returns what has come so far.
func (c *client) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.String()
}

func (c *client) events() (events []sse.Event) {
	for r := sse.NewReader(strings.NewReader(c.text())); ; {
		e, err := r.Next()
		if err != nil {
			return events
		}
		events = append(events, e)
	}
}

func (c *client) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// get asks h for a stream of path, with headers in pairs.
func (s *site) get(h *Handler, path string, header ...string) *client {
	return s.request(h, http.MethodGet, path, append([]string{"Accept", "text/event-stream"}, header...)...)
}

func (s *site) request(h *Handler, method, path string, header ...string) *client {
	ctx, leave := context.WithCancel(context.Background())
	c := &client{header: make(http.Header), leave: leave, done: make(chan struct{})}
	r := httptest.NewRequestWithContext(ctx, method, path, http.NoBody)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), c, s.server)
	go func() {
		defer close(c.done)
		c.err = h.ServeHTTP(c, r, s)
	}()
	return c
}

// close ends the clients and whatever lingers, as unloading the configuration does.
func (s *site) close(clients ...*client) {
	for _, c := range clients {
		c.leave()
		<-c.done
	}
	if err := s.h.Cleanup(); err != nil {
		s.t.Error(err)
	}
}

// accepts are methods and Accept header fields, and whether they ask for a stream.
var accepts = []struct {
	method string
	accept []string
	taken  bool
}{
	{"GET", []string{"text/event-stream"}, true},
	{"GET", []string{"Text/Event-Stream;charset=utf-8"}, true},
	{"GET", []string{"application/json, text/event-stream;q=0.5"}, true},
	{"GET", []string{"application/json", "text/event-stream"}, true},
	{"GET", []string{"text/event-stream;q=0"}, false},
	{"GET", []string{"text/event-stream; q=0.000"}, false},
	{"GET", []string{`text/event-stream;a=";q=0;"`}, true},
	{"GET", []string{`text/event-stream;a="\",;";q=0`}, false},
	{"GET", []string{"*/*"}, false},
	{"GET", []string{"text/*"}, false},
	{"GET", []string{"text/event-streams"}, false},
	{"GET", nil, false},
	{"HEAD", []string{"text/event-stream"}, false},
	{"POST", []string{"text/event-stream"}, false},
}

func TestOnlyStreamsAreTaken(t *testing.T) {
	s := newSite(t, new(Handler))
	defer s.close()
	for _, c := range accepts {
		r := httptest.NewRequest(c.method, "/", http.NoBody)
		r.Header["Accept"] = c.accept
		if got := wantsStream(r); got != c.taken {
			t.Errorf("%s %q: taken %v", c.method, c.accept, got)
		}
		if c.taken {
			continue
		}
		w := httptest.NewRecorder()
		if err := s.h.ServeHTTP(w, r, s); err != nil || w.Body.String() != `{"n":1}` {
			t.Errorf("%s %q: %v, %q", c.method, c.accept, err, w.Body)
		}
		if got := w.Header().Get("Vary"); (got == "Accept") != (c.method == "GET") {
			t.Errorf("%s %q: Vary %q", c.method, c.accept, got)
		}
	}
}

func TestFirstPollDecides(t *testing.T) {
	status := func(code int, header ...string) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			return nil
		}
	}
	failing := func(err error) func(http.ResponseWriter, *http.Request) error {
		return func(http.ResponseWriter, *http.Request) error { return err }
	}
	hang := func(w http.ResponseWriter, r *http.Request) error {
		<-r.Context().Done()
		return r.Context().Err()
	}
	const opens, passes = false, true
	for name, c := range map[string]struct {
		answer               func(http.ResponseWriter, *http.Request) error
		fresh, returning     bool // whether the request passes
		longerThanFourSecond bool
	}{
		"document":       {nil, opens, opens, false},
		"400":            {status(400), passes, opens, false},
		"401":            {status(401), passes, passes, false},
		"403":            {status(403), passes, passes, false},
		"403 rate limit": {status(403, "Retry-After", "60"), opens, opens, false},
		"404":            {status(404), passes, opens, false},
		"408":            {status(408), opens, opens, false},
		"410":            {status(410), passes, passes, false},
		"421":            {status(421), opens, opens, false},
		"425":            {status(425), opens, opens, false},
		"429":            {status(429), opens, opens, false},
		"500":            {status(500), opens, opens, false},
		"302":            {status(302), opens, opens, false},
		"native stream":  {status(200, "Content-Type", "text/event-stream; charset=utf-8"), passes, passes, false},
		"nobody answers": {failing(nil), passes, opens, false},
		"error 403":      {failing(caddyhttp.Error(403, context.Canceled)), passes, passes, false},
		"error 502":      {failing(caddyhttp.Error(502, context.Canceled)), opens, opens, false},
		"hang":           {hang, opens, opens, true},
	} {
		for _, id := range []string{"", eventID{1, 2, 3}.String()} {
			passes := c.fresh
			if id != "" {
				passes = c.returning
			}
			t.Run(name+" "+id, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSite(t, &Handler{Timeout: caddy.Duration(time.Minute)})
					passed := false
					document := s.answer
					s.answer = func(w http.ResponseWriter, r *http.Request) error {
						if r.Header.Get("Accept") == "text/event-stream" {
							passed = true
							return nil
						}
						if c.answer == nil {
							return document(w, r)
						}
						return c.answer(w, r)
					}
					client := s.get(s.h, "/", "Last-Event-ID", id)
					time.Sleep(10 * time.Millisecond)
					synctest.Wait()
					if c.longerThanFourSecond {
						if client.text() != "" {
							t.Error("the header went out before the first poll had ended")
						}
						time.Sleep(5 * time.Second)
						synctest.Wait()
					}
					if passed != passes || passes && client.header.Get("Vary") != "Accept" {
						t.Errorf("passed: %v, Vary %q", passed, client.header.Get("Vary"))
					}
					if !passes && (client.status != 200 || !strings.HasPrefix(client.text(), ":\nretry: ")) {
						t.Errorf("status %d, %q", client.status, client.text())
					}
					if passes {
						<-client.done
						if n := s.resources(); n != 0 {
							t.Errorf("%d resources linger", n)
						}
					}
					s.close(client)
				})
			})
		}
	}
}

func TestWithdrawal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(10 * time.Second)})
		client := s.get(s.h, "/")
		s.waitForPolls(1)
		document := s.answer
		forbidden := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusForbidden)
			return nil
		})
		s.setAnswer(forbidden)
		s.waitForPolls(1)
		s.setAnswer(document) // it was a slip
		slip := time.Now()
		s.waitForPolls(1)
		if client.ended() || time.Since(slip) > 1100*time.Millisecond {
			t.Fatalf("one 403 ended the stream, or was not asked for again within %v", time.Since(slip))
		}
		s.setAnswer(forbidden)
		s.waitForPolls(1)
		between := s.get(s.h, "/")
		synctest.Wait()
		if between.text() != "" {
			t.Errorf("a client that comes while the document may be withdrawn is sent %q", between.text())
		}
		s.waitForPolls(1)
		if !client.ended() {
			t.Error("the stream goes on after two 403")
		}
		if <-between.done; between.status != http.StatusForbidden {
			t.Errorf("the client that came in between is sent %d %q", between.status, between.text())
		}
		s.close(client, between)
	})
}

// Nor does it matter that the upstream had failed in other ways before.
func TestWithdrawalAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		client := s.get(s.h, "/")
		s.waitForPolls(1)
		answer := func(status int) {
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(status); return nil })
		}
		answer(http.StatusInternalServerError)
		s.waitForPolls(5)
		answer(http.StatusUnauthorized)
		s.waitForPolls(1)
		began := time.Now()
		<-client.done
		if took := time.Since(began); took > 1100*time.Millisecond {
			t.Errorf("the stream ended %v after the first 401", took)
		}
		s.close(client)
	})
}

// A backend that streams by itself may have nothing to say for long.
func TestSilentNativeStreamPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("X-Native", "1")
			w.WriteHeader(http.StatusOK)
			<-r.Context().Done()
			return r.Context().Err()
		})
		c := s.get(s.h, "/")
		synctest.Wait()
		if c.header.Get("X-Native") != "1" || s.resources() != 0 {
			t.Errorf("%v, %d resources", c.header, s.resources())
		}
		s.close(c)
	})
}

// A configuration that was loaded and then rolled back leaves the one before as it
// was.
func TestRollback(t *testing.T) {
	for _, oldStreamStays := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
			old := s.get(s.h, "/")
			s.waitForPolls(1)
			if !oldStreamStays {
				old.leave()
			}
			newer := &site{t: t, server: new(caddyhttp.Server)}
			newer.answer = func(w http.ResponseWriter, r *http.Request) error {
				_, err := w.Write([]byte(`{"n":2}`))
				return err
			}
			newer.h = newer.provision(&Handler{Interval: s.h.Interval})
			c := newer.get(newer.h, "/")
			newer.waitForPolls(2)
			if len(c.events()) != 1 {
				t.Fatalf("the newer generation serves %q", c.text())
			}
			ends := total(t, streamEndsTotal, endRollback)
			newer.close(c) // as Caddy does where another app fails to start
			time.Sleep(time.Second)
			synctest.Wait()
			if oldStreamStays && !old.ended() {
				t.Error("the old stream follows a resource that nobody polls")
			}
			if n := total(t, streamEndsTotal, endRollback) - ends; (n == 1) != oldStreamStays {
				t.Errorf("%v streams are counted", n)
			}
			polls := newer.count()
			back := s.get(s.h, "/", "Last-Event-ID", old.events()[0].ID)
			fresh := s.get(s.h, "/")
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				_, err := w.Write([]byte(`{"n":3}`))
				return err
			})
			s.waitForPolls(3)
			for _, c := range []*client{back, fresh} {
				if !strings.Contains(c.text(), `{"n":3}`) || strings.Contains(c.text(), `{"n":2}`) {
					t.Errorf("after the rollback a client is sent %q", c.text())
				}
			}
			if newer.count() != polls {
				t.Error("the unloaded route is still polled")
			}
			s.close(old, back, fresh)
		})
	}
}

func TestFirstHeartbeatHasARandomPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Heartbeat: caddy.Duration(10 * time.Second)})
		var clients []*client
		for range 200 {
			clients = append(clients, s.get(s.h, "/"))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		early := 0
		for _, c := range clients {
			if strings.Count(c.text(), ":\n") > 1 {
				early++
			}
		}
		if early < 60 || early > 140 {
			t.Errorf("%d of 200 streams beat in the first half of the interval", early)
		}
		s.close(clients...)
	})
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{MaxPollers: 2, MaxStreams: 3})
		turnedAway := func(c *client) {
			t.Helper()
			<-c.done
			r := sse.NewReader(strings.NewReader(c.text()))
			if _, err := r.Next(); c.status != 200 || err == nil || r.Retry < 15*time.Second || r.Retry > time.Minute {
				t.Errorf("status %d, %q", c.status, c.text())
			}
		}
		a, b := s.get(s.h, "/a"), s.get(s.h, "/b")
		synctest.Wait()
		turnedAway(s.get(s.h, "/c"))
		a2 := s.get(s.h, "/a")
		synctest.Wait()
		turnedAway(s.get(s.h, "/b"))
		a2.leave()
		b.leave() // lingers, and gives way
		synctest.Wait()
		c := s.get(s.h, "/c")
		synctest.Wait()
		if len(c.events()) != 1 {
			t.Errorf("%q", c.text())
		}
		if n := s.resources(); n != 2 {
			t.Errorf("%d resources", n)
		}
		s.close(a, c)
	})
}

func TestHeartbeatAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{MaxAge: caddy.Duration(10 * time.Minute)})
		began := time.Now()
		c := s.get(s.h, "/")
		<-c.done
		if age := time.Since(began); age < 9*time.Minute || age > 11*time.Minute {
			t.Errorf("ended after %v", age)
		}
		beats := strings.Count(c.text(), ":\n") - 1
		if most := int(time.Since(began) / (15 * time.Second)); beats < most-1 || beats > most+1 {
			t.Errorf("%d heartbeats in %v", beats, time.Since(began))
		}
		s.close(c)
	})
}

func TestWriteTimeoutOfTheServerEndsStreamsCleanly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, server: &caddyhttp.Server{WriteTimeout: caddy.Duration(100 * time.Second)}}
		s.answer = func(w http.ResponseWriter, r *http.Request) error { _, err := w.Write([]byte("1")); return err }
		s.h = s.provision(new(Handler))
		began := time.Now()
		c := s.get(s.h, "/")
		<-c.done
		if age := time.Since(began); age < 80*time.Second || age > 95*time.Second || c.err != nil {
			t.Errorf("ended after %v: %v", age, c.err)
		}
		s.close(c)
	})
}

func TestDrainIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Drain: caddy.Duration(10 * time.Second)})
		var clients []*client
		for range 100 {
			clients = append(clients, s.get(s.h, "/"))
		}
		synctest.Wait()
		began := time.Now()
		s.h.beginDrain()
		var mu sync.Mutex // guards perSecond
		var perSecond [10]int
		var ends sync.WaitGroup
		for _, c := range clients {
			ends.Go(func() {
				<-c.done
				mu.Lock()
				defer mu.Unlock()
				perSecond[min(9, int(time.Since(began)/time.Second))]++
			})
		}
		ends.Wait()
		for second, n := range perSecond {
			if n == 0 || n > 30 {
				t.Errorf("%d of 100 streams ended in second %d", n, second)
			}
		}
		late := s.get(s.h, "/")
		if <-late.done; late.status != 200 || !strings.HasPrefix(late.text(), ":\nretry: ") {
			t.Errorf("a client of a draining handler is sent %d %q", late.status, late.text())
		}
		s.close(append(clients, late)...)
	})
}

// A newer generation takes over a resource; the older one's streams see nothing
// that it polls, and its own clients nothing before its first poll.
func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		old := s.get(s.h, "/")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		first := s.h
		id := old.events()[0].ID

		newer := &site{t: t, server: new(caddyhttp.Server)} // the same route after a reload
		release := make(chan struct{})
		newer.answer = func(w http.ResponseWriter, r *http.Request) error {
			<-release
			_, err := w.Write([]byte(`{"n":2}`))
			return err
		}
		newer.h = newer.provision(&Handler{Interval: first.Interval})
		if newer.h.poolKey != first.poolKey {
			t.Fatal("the reloaded handler has another key")
		}
		fresh := newer.get(newer.h, "/")
		back := newer.get(newer.h, "/", "Last-Event-ID", id)
		synctest.Wait()
		if fresh.text() != "" {
			t.Errorf("a client of the new generation is sent %q before its own poll", fresh.text())
		}
		release <- struct{}{}
		synctest.Wait()
		close(release)
		if e := fresh.events(); len(e) != 1 || !strings.Contains(e[0].Data, `{"n":2}`) {
			t.Errorf("then it is sent %q", fresh.text())
		}
		if e := back.events(); len(e) != 1 || strings.Contains(back.text(), `{"n":1}`) {
			t.Errorf("a returning client is sent %q", back.text())
		}
		if n := len(old.events()); n != 1 || old.ended() {
			t.Errorf("the old stream has %d events", n)
		}
		s.close(old)
		time.Sleep(time.Second)
		synctest.Wait()
		polls := s.count()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s.count() != polls {
			t.Error("the old route is still polled")
		}
		newer.close(fresh, back)
	})
}

func TestAlikeHandlersDoNotShare(t *testing.T) {
	s := newSite(t, new(Handler))
	defer s.close()
	other := s.provision(new(Handler))
	if other.poolKey == s.h.poolKey || other.pool == s.h.pool {
		t.Error("two handlers of one server share their resources")
	}
	if err := other.Cleanup(); err != nil {
		t.Error(err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{"interval":-1}`:                                  "interval must be at least 1ms",
		`{"interval":"1us"}`:                               "interval must be at least 1ms",
		`{"history":{"events":-1}}`:                        "history events must be positive",
		`{"max_body":-5}`:                                  "max_body must be positive",
		`{"format":"json"}`:                                "format must be patch, full or merge",
		`{"max_interval":"1s"}`:                            "interval must not have a maximum below",
		`{"max_views":-1}`:                                 "max_views must be positive",
		`{"select":"/a/[id=*]"}`:                           "are for selectable",
		`{"ignore":["/a/[id=*]/b"]}`:                       "are for selectable",
		`{"key":[{"pointer":"/a/[id=4]/b","member":"b"}]}`: "cannot name items by their members",
		`{"select":"/a/[id=4]","selectable":["/a/[id=*]"],"ignore":["/a/[id=4]/b"]}`: "",
		`{"select":"/a/*"}`:                       "select takes one pointer",
		`{"event":"a\nb"}`:                        "one line",
		`{"select":"a"}`:                          "not a JSON Pointer",
		`{"selectable":["/a","b"]}`:               "not a JSON Pointer",
		`{"ignore":["/a",""]}`:                    "ignore cannot ignore the whole document",
		`{"ignore":["/~2"]}`:                      "not a JSON Pointer",
		`{"event":"open"}`:                        "event cannot be",
		`{"retry":{"min":"5s","max":"1s"}}`:       "retry must not have a maximum below",
		`{"retry":{"max":"1ms"}}`:                 "retry must not have a maximum below",
		`{"query":["*","a"]}`:                     "query takes * or none alone",
		`{"key":[{"pointer":"a","member":"b"}]}`:  "not a JSON Pointer",
		`{"key":[{"pointer":"/~","member":"b"}]}`: "not a JSON Pointer",
		`{"forward_header":["Range"]}`:            "cannot forward",
		`{"forward_header":["if-none-match"]}`:    "cannot forward",
		`{"forward_header":["a b"]}`:              "cannot forward",
		`{"forward_header":["Cookie","cookie"]}`:  "names Cookie twice",
		`{"retry":{"min":"10s"}}`:                 "",
		`{"interval":"1m"}`:                       "",
		`{"select":"/a","selectable":["","/*"],"ignore":["/[id=1]/*"],"key":[{"pointer":"/*","member":"b"}]}`: "",
		`{"max_age":-1,"query":["none"],"event":"price"}`:                                                     "",
	} {
		h := new(Handler)
		if err := caddy.StrictUnmarshalJSON([]byte(text), h); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		h.setDefaults()
		err := h.check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if err := caddy.StrictUnmarshalJSON([]byte(`{"intervall":"1s"}`), new(Handler)); err == nil {
		t.Error("an unknown field is accepted")
	}
	if got, err := json.Marshal(new(Handler)); err != nil || string(got) != `{}` {
		t.Errorf("the zero Handler is %s (%v)", got, err)
	}
}

// What Provision and streams took is given back.
func TestNothingIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		c := s.get(s.h, "/")
		passed := s.get(s.h, "/?sse_format=x") // an error
		synctest.Wait()
		s.close(c, passed)
		if n, ok := resourcePools.References(s.h.poolKey); ok {
			t.Errorf("%d references to the resource pool", n)
		}
		if n, ok := ordinals.References(s.h.ordinalKey); ok {
			t.Errorf("%d references to the ordinals", n)
		}
	})
}

// Streams of an unloaded configuration end even where the server says nothing.
func TestCleanupDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		c := s.get(s.h, "/")
		synctest.Wait()
		if err := s.h.Cleanup(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Duration(s.h.Drain))
		synctest.Wait()
		if !c.ended() {
			t.Error("the stream goes on")
		}
		c.leave()
		<-c.done
	})
}

func TestNoMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{MaxAge: -1, Interval: caddy.Duration(time.Hour)})
		c := s.get(s.h, "/")
		time.Sleep(100 * time.Hour)
		if c.ended() {
			t.Error("a stream without max_age ended")
		}
		s.close(c)
	})
}

// An id in the query is as good as one in the header: its client comes back.
func TestReconnectByQueryKeepsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(404); return nil })
		c := s.get(s.h, "/?lastEventId="+eventID{1, 2, 3}.String())
		synctest.Wait()
		if c.ended() || !strings.HasPrefix(c.text(), ":\nretry: ") {
			t.Errorf("it is sent %d %q", c.status, c.text())
		}
		s.close(c)
	})
}

// So does one that nobody has given: its client has been here.
func TestForeignIDsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(status(404))
		c := s.get(s.h, "/", "Last-Event-ID", "17")
		synctest.Wait()
		if c.ended() || !strings.HasPrefix(c.text(), ":\nretry: ") {
			t.Errorf("it is sent %d %q", c.status, c.text())
		}
		s.close(c)
	})
}

// What is not JSON passes for who does not stream; streams wait until it is.
func TestStreamsOfRejectedAnswersOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(answering("<html>"))
		c := s.get(s.h, "/")
		synctest.Wait()
		s.setAnswer(answering("2"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if e := c.events(); len(e) != 1 || c.ended() {
			t.Errorf("it is sent %q", c.text())
		}
		s.close(c)
	})
}

// All streams end with the process, whatever they follow.
func TestAllStreamsEndWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour)})
		var clients []*client
		for _, path := range []string{"/a", "/a", "/a?sse_format=full", "/b", "/c", "/c?sse_format=merge"} {
			clients = append(clients, s.get(s.h, path))
		}
		synctest.Wait()
		s.h.beginExit()
		synctest.Wait()
		for i, c := range clients {
			if !c.ended() {
				t.Errorf("stream %d goes on", i)
			}
		}
		s.close(clients...)
	})
}

// Requests that come while streams are drained are turned away at once, and what is
// Caddy's is given back after each.
func TestRequestsWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{MaxAge: caddy.Duration(time.Minute)})
		for _, draining := range []bool{false, true} {
			if draining {
				s.h.beginDrain()
			}
			w := &deadlines{recordedResponse: recordedResponse{header: make(http.Header)}}
			r, idle := idleTimeouts(httptest.NewRequest(http.MethodGet, "/", http.NoBody), w)
			r.Header.Set("Accept", "text/event-stream")
			controller, around := idle.Ctrl, &outer{ResponseWriter: idle}
			began := time.Now()
			if err := s.h.ServeHTTP(around, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), around, s.server), s); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); (took == 0) != draining || !strings.HasPrefix(w.body.String(), ":\nretry: ") {
				t.Errorf("draining %v: %q after %v", draining, w.body.String(), took)
			}
			if idle.Ctrl != controller {
				t.Errorf("draining %v: the controller is not given back", draining)
			}
		}
		s.close()
	})
}
