package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/promise"
)

// The promise is kept whatever happens: documents that change at random are followed
// through an upstream that fails, reloads, restarts and kills, by clients that are
// cut, slow, away, and change their minds about the format. The seed says over which
// protocol, so that five rounds that follow each other go over all.
func TestPromise(t *testing.T) {
	seed := seedOf(t)
	rounds := uint64(5)
	if *seedFlag != 0 {
		rounds = 1
	}
	for began, n := time.Now(), uint64(0); n < rounds || time.Since(began) < *long; n++ {
		t.Run(fmt.Sprint("seed ", seed+n), func(t *testing.T) { newWorld(t, seed+n).keepPromise() })
	}
}

// world is what a round takes place in.
type world struct {
	t          *testing.T
	rand       *rand.Rand // of the goroutine of the test
	seed       uint64
	oracle     *promise.Oracle
	upstream   *upstream
	caddy      *caddy
	protocols  []string
	ignored    []string
	event      string // the type of all events
	generation int    // of the configuration

	frozen atomic.Bool  // the documents do not change any longer
	stops  atomic.Int64 // counts when the process begins to end, and when it has ended
	done   atomic.Bool  // clients shall come to an end
	all    context.Context
	cancel context.CancelFunc

	backends [promisePaths]*promise.Backend

	mu   sync.Mutex // guards all below
	h3   *http.Client
	life context.Context // of the process: over HTTP/3 nothing else tells that it is over
	end  context.CancelFunc

	events, cuts, polled atomic.Int64
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0))}
	all := append([]string{"h1+TLS"}, protocols...)
	if n := seed % 5; n < 4 {
		w.protocols = all[n : n+1]
	} else {
		w.protocols = all
	}
	if w.rand.IntN(3) == 0 {
		w.ignored = promise.Ignored
	}
	if w.rand.IntN(4) == 0 {
		w.event = "change"
	}
	w.oracle = promise.New(w.ignored...)
	w.all, w.cancel = context.WithCancel(t.Context())
	for i := range w.backends {
		w.backends[i] = promise.NewBackend(seed, uint64(1+i), w.pathOf(i))
	}
	w.upstream = newUpstream(t, "")
	w.upstream.setAnswer(w.poll)
	return w
}

// site returns a new configuration, whose number clients and upstream are told.
func (w *world) site() string {
	w.generation++
	r := w.rand
	lines := []string{
		fmt.Sprintf("interval %dms", 5+w.generation), // unlike all others
		"timeout 5s", // or the machine's slowness would decide what the poller sees
		"retry 1ms 5ms",
		"heartbeat 100ms",
		"drain " + pick(r, "1ms", "100ms", "300ms"),
		"linger " + pick(r, "20ms", "1s", "30s"),
		"max_age " + pick(r, "off", "200ms", "1s"),
		"history " + pick(r, "1", "3", "30 20KiB", "1000"),
		"compress " + pick(r, "gzip", "gzip", "off"),
		"selectable " + strings.Join(promise.Selectable, " "),
	}
	if len(w.ignored) > 0 {
		lines = append(lines, "ignore "+strings.Join(w.ignored, " "))
	}
	if w.event != "" {
		lines = append(lines, "event "+w.event)
	}
	return fmt.Sprintf("header X-Config %d\npoll_sse /api/* {\n%s\n}\nreverse_proxy /api/* %s {\nheader_up X-Config %[1]d\n}",
		w.generation, strings.Join(lines, "\n"), w.upstream.Listener.Addr())
}

func pick(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

// pollerOf names what one poller is answered: those of another configuration, and of
// another of the process's servers, poll for themselves.
func pollerOf(host, config, path string) string {
	return host + " " + config + " " + path
}

// poll answers a poll with the document, which may have changed, or fails.
func (w *world) poll(rw http.ResponseWriter, r *http.Request) {
	w.polled.Add(1)
	rw.Header().Set("X-Upstream", "1")
	io.Copy(io.Discard, r.Body)
	number, _ := strconv.Atoi(path.Base(r.URL.Path))
	text, tag, fault := w.backends[number].Poll(w.frozen.Load())
	if fault > 0 && r.Method == http.MethodGet {
		fails(rw, r, fault)
		return
	}
	rw.Header().Set("ETag", tag)
	rw.Header().Set("Content-Length", fmt.Sprint(len(text)))
	if r.Header.Get("If-None-Match") == tag {
		rw.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Header.Get("Accept") == "application/json" { // no client's own request
		w.oracle.Answer(pollerOf(r.Host, r.Header.Get("X-Config"), r.URL.Path), text)
	}
	io.WriteString(rw, text)
}

// fails answers a poll with what is no document.
func fails(w http.ResponseWriter, r *http.Request, how int) {
	switch how {
	case 1:
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"items":[]`)
		panic(http.ErrAbortHandler)
	case 2:
		panic(http.ErrAbortHandler)
	case 3:
		io.WriteString(w, "<html>busy</html>")
	case 4:
		w.WriteHeader(http.StatusNotFound)
	case 5:
		http.Redirect(w, r, "/api/other", http.StatusFound)
	case 6: // until it times out
		<-r.Context().Done()
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}

const (
	promiseClients = 16
	promisePaths   = 3
	enoughEvents   = 500
)

func (w *world) keepPromise() {
	site := w.site()
	w.caddy = start(w.t, site)
	w.begin()
	var clients sync.WaitGroup
	for i := range promiseClients {
		clients.Go(func() {
			c := newWatcher(w, i)
			if err := c.run(); err != nil {
				w.t.Errorf("client %d: %v\n%s", i, err, strings.Join(c.trace, "\n"))
				w.done.Store(true)
			}
		})
	}
	for began := time.Now(); !w.done.Load() && (time.Since(began) < 3*time.Second ||
		w.events.Load() < enoughEvents && time.Since(began) < patience); {
		time.Sleep(time.Duration(w.rand.IntN(400)) * time.Millisecond)
		switch n := w.rand.IntN(20); {
		case n < 6: // the same again
		case n < 10:
			site = w.site()
		case n < 11:
			w.restart(syscall.SIGTERM, site)
			continue
		case n < 12:
			w.restart(syscall.SIGKILL, site)
			continue
		default:
			w.write()
			continue
		}
		if err := w.caddy.reload(site); err != nil {
			w.t.Error(err)
		}
	}
	w.frozen.Store(true)
	ended := make(chan struct{})
	go func() { clients.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(patience):
		w.t.Error("clients are not up to date in the end")
		w.done.Store(true)
		w.cancel()
		<-ended
	}
	if w.t.Failed() {
		return
	}
	answers, states, logs := w.oracle.Counts()
	w.t.Logf("%v: %d polls, %d documents, %d states; %d logs, %d events, %d cuts, %d stops, %d configurations",
		w.protocols, w.polled.Load(), answers, states, logs, w.events.Load(), w.cuts.Load(), w.stops.Load()/2, w.generation)
	if unseen := w.oracle.Unseen(); unseen > logs/4 {
		w.t.Errorf("%d states in no log", unseen)
	}
	if w.events.Load() < enoughEvents/10 {
		w.t.Error("hardly any events")
	}
	w.caddy.eventually("streams end", func() bool { return w.caddy.metric("caddy_poll_sse_streams") == 0 })
}

// begin notes that the process has begun.
func (w *world) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.h3 = w.caddy.newH3()
	w.life, w.end = context.WithCancel(w.all)
}

// client returns what a client connects by, and a context that ends with the process
// where nothing else says so.
func (w *world) client(protocol string) (client *http.Client, base string, life context.Context) {
	client, base = w.caddy.client(protocol)
	if protocol != "h3" {
		return client, base, w.all
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.h3, base, w.life
}

// restart ends the process, and begins another.
func (w *world) restart(signal syscall.Signal, site string) {
	w.stops.Add(1)
	w.caddy.kill(signal)
	w.caddy.checkLog()
	w.stops.Add(1)
	w.end()
	w.caddy.run(site)
	w.begin()
}

// hasStopped reports whether the process has been, or was just being ended since then.
func (w *world) hasStopped(stops int64) bool { return stops%2 == 1 || w.stops.Load() != stops }

// write changes a document through the proxy.
func (w *world) write() {
	client, base, life := w.client(w.protocols[0])
	ctx, cancel := context.WithTimeout(life, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+w.path(w.rand), strings.NewReader("{}"))
	if err != nil {
		w.t.Fatal(err)
	}
	if response, err := client.Do(request); err == nil {
		response.Body.Close()
	}
}

func (w *world) path(r *rand.Rand) string { return w.pathOf(r.IntN(promisePaths)) }

func (w *world) pathOf(number int) string { return fmt.Sprint("/api/", number) }

var errSilent = errors.New("nothing comes, not even heartbeats")
