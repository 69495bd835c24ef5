package pollsse

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/pollsse/caddy-poll-sse/internal/promise"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// FuzzPromise keeps the promise in a world without sockets, whose time is its own, so
// that hours of polls, cuts, slow clients, reloads and restarts take minutes. What
// happens in it follows from a seed, but for what the module itself draws.
func FuzzPromise(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { newPromiseWorld(t, seed).run() })
	})
}

// promiseWorld is a server with its upstream and its clients.
type promiseWorld struct {
	t      *testing.T
	rand   *rand.Rand // of the goroutine of the test
	seed   uint64
	oracle *promise.Oracle

	ignored []string
	options Handler // of the newest configuration
	config  int     // counts configurations that differ

	backends map[string]*promise.Backend // by path

	mu      sync.Mutex // guards all below
	current *promiseServer
	frozen  bool
	events  int
}

// promiseServer is a loaded configuration.
type promiseServer struct {
	*promiseWorld
	handler *Handler
	server  *caddyhttp.Server
	name    string // of the configuration: others poll for themselves
	ctx     context.Context
	kill    context.CancelFunc
	streams sync.WaitGroup
}

func newPromiseWorld(t *testing.T, seed uint64) *promiseWorld {
	w := &promiseWorld{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), backends: make(map[string]*promise.Backend)}
	if w.rand.IntN(3) == 0 {
		w.ignored = promise.Ignored
	}
	w.oracle = promise.New(w.ignored...)
	for i := range uint64(2) {
		path := fmt.Sprint("/", i)
		w.backends[path] = promise.NewBackend(seed, 1+i, path)
	}
	w.configure()
	w.current = w.provision()
	return w
}

// configure draws a configuration that is unlike those before.
func (w *promiseWorld) configure() {
	pick := func(from ...time.Duration) caddy.Duration { return caddy.Duration(from[w.rand.IntN(len(from))]) }
	w.config++
	w.options = Handler{
		Interval:   caddy.Duration(20*time.Millisecond + time.Duration(w.config)),
		Timeout:    pick(100*time.Millisecond, time.Second),
		Linger:     pick(time.Millisecond, 100*time.Millisecond, time.Minute),
		Drain:      pick(time.Millisecond, 50*time.Millisecond, 3*time.Second),
		MaxAge:     pick(-1, 300*time.Millisecond, time.Minute),
		Heartbeat:  pick(30*time.Millisecond, 15*time.Second),
		History:    history{Events: []int{1, 2, 30, 1000}[w.rand.IntN(4)], Size: []int64{10_000, 8 << 20}[w.rand.IntN(2)]},
		Ignore:     w.ignored,
		Selectable: promise.Selectable,
		MaxViews:   []int{2, 32}[w.rand.IntN(2)],
	}
}

// provision loads the newest configuration once more.
func (w *promiseWorld) provision() *promiseServer {
	h := w.options
	s := &promiseServer{promiseWorld: w, handler: &h, server: new(caddyhttp.Server), name: fmt.Sprint(w.config)}
	s.ctx, s.kill = context.WithCancel(context.Background())
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.WithValue(s.ctx, caddyhttp.ServerCtxKey, s.server)})
	w.t.Cleanup(cancel)
	if err := s.handler.Provision(ctx); err != nil {
		w.t.Fatal(err)
	}
	s.handler.logger = zap.NewNop() // what it says would bury what is found
	return s
}

// unload does what Caddy does with a configuration that is replaced.
func (s *promiseServer) unload() {
	s.handler.shutDown()
	s.streams.Wait()
	s.kill()
	if err := s.handler.Cleanup(); err != nil {
		s.t.Error(err)
	}
}

// ServeHTTP is the rest of the route.
func (s *promiseServer) ServeHTTP(rw http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Accept") != "application/json" {
		rw.WriteHeader(http.StatusTeapot) // a client's own request
		return nil
	}
	s.mu.Lock()
	frozen := s.frozen
	s.mu.Unlock()
	text, tag, fault := s.backends[r.URL.Path].Poll(frozen)
	time.Sleep(rand.N(30 * time.Millisecond))
	switch {
	case r.Context().Err() != nil: // its resource has ended
		return r.Context().Err()
	case fault > 35:
		<-r.Context().Done()
		return r.Context().Err()
	case fault > 0:
		rw.WriteHeader([]int{404, 500, 503, 302}[fault%4])
		return nil
	}
	rw.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		rw.WriteHeader(http.StatusNotModified)
		return nil
	}
	s.oracle.Answer(s.name+r.URL.Path, text)
	_, err := io.WriteString(rw, text)
	return err
}

func (w *promiseWorld) run() {
	var clients sync.WaitGroup
	var unloading sync.WaitGroup
	for i := range uint64(6) {
		clients.Go(func() {
			c := &promiseClient{promiseWorld: w, rand: rand.New(rand.NewPCG(w.seed, 100+i)), knows: w.oracle.NewClient()}
			if err := c.run(); err != nil {
				w.t.Errorf("client %d, %v: %v\n%s", i, c.knows, err, strings.Join(c.trace, "\n"))
			}
		})
	}
	for range 15 {
		time.Sleep(time.Duration(w.rand.IntN(800)) * time.Millisecond)
		old := w.current
		switch w.rand.IntN(6) {
		case 0: // the process is killed; clients find nobody until it starts again
			w.take(nil)
			old.kill()
			unloading.Wait()
			old.unload()
			w.take(w.provision())
		case 1: // a new configuration fails to start
			failed := w.provision()
			time.Sleep(time.Duration(w.rand.IntN(100)) * time.Millisecond)
			unloading.Go(failed.unload)
		case 2:
			w.configure()
			fallthrough
		default:
			w.take(w.provision())
			unloading.Go(old.unload)
		}
	}
	w.mu.Lock()
	w.frozen = true
	w.mu.Unlock()
	clients.Wait()
	w.current.kill()
	unloading.Go(w.current.unload)
	unloading.Wait()
	if unseen := w.oracle.Unseen(); unseen > 0 { // here a poll that nobody sees is no answer
		w.t.Errorf("%d states in no log", unseen)
	}
	if w.events < 10 {
		w.t.Errorf("only %d events", w.events)
	}
}

// take makes s serve new requests.
func (w *promiseWorld) take(s *promiseServer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = s
}

// promiseClient connects again and again until nothing changes any longer.
type promiseClient struct {
	*promiseWorld
	rand   *rand.Rand
	knows  *promise.Client
	path   string
	format string
	part   string
	trace  []string // what it has seen last
}

func (c *promiseClient) run() error {
	until := time.Now().Add(10 * time.Minute)
	for time.Now().Before(until) {
		c.mu.Lock()
		s, frozen := c.current, c.frozen
		if s != nil {
			s.streams.Add(1)
		}
		c.mu.Unlock()
		if s == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if c.path == "" || !frozen && c.rand.IntN(20) == 0 {
			c.aim()
		}
		if !frozen && c.rand.IntN(5) == 0 {
			c.format = []string{formatPatch, formatMerge, formatFull}[c.rand.IntN(3)]
		}
		if !frozen && c.rand.IntN(10) == 0 { // its connection is still on its way meanwhile
			time.Sleep(time.Duration(c.rand.IntN(50)) * time.Millisecond)
		}
		err := c.connect(s, frozen)
		if err == errUpToDate {
			return nil
		}
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(c.rand.IntN(1<<c.rand.IntN(11))) * time.Millisecond)
	}
	return errors.New("not up to date")
}

// aim draws what is followed.
func (c *promiseClient) aim() {
	c.knows.Forget()
	c.path = fmt.Sprint("/", c.rand.IntN(len(c.backends)))
	c.format = []string{formatPatch, formatPatch, formatMerge, formatFull}[c.rand.IntN(4)]
	c.part = promise.Pointer(c.rand)
}

var (
	errUpToDate = errors.New("up to date")
	errCut      = errors.New("cut")
)

// connect follows one stream until it ends or is cut, at a random byte. It gives back
// its place among the streams of s.
func (c *promiseClient) connect(s *promiseServer, frozen bool) error {
	ctx, leave := context.WithCancel(s.ctx)
	defer leave()
	query := url.Values{"sse_format": {c.format}}
	if c.part != "" {
		query.Set("sse_select", c.part)
	}
	body, pipe := io.Pipe()
	w := &pipeWriter{PipeWriter: pipe, header: make(http.Header)}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, c.path+"?"+query.Encode(), http.NoBody)
	r.Header.Set("Accept", "text/event-stream")
	if c.rand.IntN(2) == 0 {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	if c.knows.ID != "" {
		r.Header.Set("Last-Event-ID", c.knows.ID)
	}
	c.note("%s after %q of configuration %s", r.URL, c.knows.ID, s.name)
	c.knows.Follow(s.name+c.path, c.format, c.part)
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server)
	go func() {
		defer s.streams.Done()
		pipe.CloseWithError(s.handler.ServeHTTP(w, r, s))
	}()
	stop := context.AfterFunc(ctx, func() { body.CloseWithError(errCut) }) // as a killed process does
	defer stop()
	defer body.CloseWithError(errCut)
	err := c.follow(w, body, frozen)
	c.note("%v", err)
	if err == io.EOF || errors.Is(err, errCut) || s.ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *promiseClient) follow(w *pipeWriter, body io.Reader, frozen bool) error {
	budget := math.MaxInt
	if !frozen && c.rand.IntN(3) > 0 {
		budget = c.rand.IntN(8 << c.rand.IntN(14))
	}
	in := bufio.NewReader(&meter{body, budget, c})
	if _, err := in.Peek(1); err != nil {
		return err
	}
	if w.status == http.StatusTeapot || w.status == http.StatusBadGateway {
		return nil
	}
	stream := sse.NewReader(in)
	if w.header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		stream = sse.NewReader(unzipped)
	}
	slow := c.rand.IntN(4) == 0
	for {
		e, err := stream.Next()
		if err != nil {
			return err
		}
		c.note("  %s %s %.300s", e.ID, e.Type, e.Data)
		if err := c.knows.Event(e); err != nil {
			return err
		}
		c.mu.Lock()
		c.events++
		c.mu.Unlock()
		if slow {
			time.Sleep(time.Duration(c.rand.IntN(300)) * time.Millisecond)
		}
	}
}

func (c *promiseClient) note(format string, args ...any) {
	c.trace = append(c.trace, fmt.Sprintf(format, args...))
	c.trace = c.trace[max(0, len(c.trace)-40):]
}

// meter reads so many bytes of a stream, or until the client is up to date.
type meter struct {
	io.Reader
	left   int
	client *promiseClient
}

func (m *meter) Read(p []byte) (int, error) {
	m.client.mu.Lock()
	frozen := m.client.frozen
	m.client.mu.Unlock()
	if frozen && m.client.knows.IsUpToDate() {
		return 0, errUpToDate
	}
	if m.left <= 0 {
		return 0, errCut
	}
	n, err := m.Reader.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

// pipeWriter is a response that is written to only as fast as it is read.
type pipeWriter struct {
	*io.PipeWriter
	header http.Header
	status int
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) { w.status = status }

func (w *pipeWriter) Flush() {}
