// Package pollsse is a Caddy module that turns a polled JSON endpoint into a live
// stream of its changes (Server-Sent Events) that clients can resume.
//
//	upstream ──▶ poller ──▶ diff ──▶ event ──▶ eventLog ──▶ stream ──▶ client
//	             GET 200/304  patch    frame     history     cursor     text/event-stream
//
// A poller asks the upstream for a document on an interval, once for all clients.
// Where the document has changed, diff says how, as a JSON Patch; the event that
// carries it gets an id and goes to the event log, which keeps the newest document
// and a bounded history. Every stream is a cursor into that log, so that new,
// resuming, slow and live clients are one case: each is sent the events after its
// cursor, or one snapshot of the document where the log no longer holds its place.
//
// What is polled is a resource. It feeds a view for each format and part of the
// document that clients wish, with an event log of its own. A long-poll waits for the
// head of such a log to change.
//
// Data moves to the right only, and nothing on the right knows what is on its left.
//
// # Promises
//
// Every state of the document that the poller saw is delivered, or replaced by one
// later snapshot, to every client that stays or comes back: no gap, no repeat.
//
// A poll carries nothing of a client that is not part of the key under which its
// document is shared.
//
// # Goroutines
//
// There is one for each resource, ended and waited for by the pool that holds it.
// Handlers of Caddy events run on another, which nobody who ends the resource waits for.
// Streams run on the goroutines of their requests. Timers wake streams, look for writes
// that have stalled, and end what lingers; what they belong to stops them, or they fire
// once more and find nothing to do.
package pollsse

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler answers requests for an event stream (GET with text/event-stream in
// Accept) with the changes of the JSON document that the rest of the route serves
// under the same URL, and long-polls (GET with Prefer: wait) with the document when
// it has changed. It polls the document through the rest of the route, once for all
// clients. Other requests pass to the next handler; what a successful write may have
// changed is polled at once.
type Handler struct {
	// The time from the start of a poll to the start of the next, ±10 %. Failures
	// lengthen it, up to 30s or the interval itself. Default: 2s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// Up to which time the interval grows while nothing changes. Then polls follow
	// the upstream's own freshness (Cache-Control: max-age), within both bounds, and
	// where it says nothing, each poll without an event lengthens the interval by
	// half, and one with an event makes it the shortest again. Default: the interval,
	// so that it does not adapt.
	MaxInterval caddy.Duration `json:"max_interval,omitempty"`

	// How long one poll may take. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long polling goes on, and the history is kept, after the last client has
	// left. Default: 30s.
	Linger caddy.Duration `json:"linger,omitempty"`

	// What events are: "patch" for JSON Patches, "merge" for JSON Merge Patches among
	// events of the type snapshot with whole documents, or "full" for whole documents,
	// of which only the newest is sent. Clients may choose with the query parameter
	// sse_format. Default: patch.
	Format string `json:"format,omitempty"`

	// The type of the events, for clients that listen for a name; not one of open,
	// error, message, snapshot, status and ping. Default: none, so that they reach
	// onmessage.
	Event string `json:"event,omitempty"`

	// The part of the document that is sent, as if it were all: a JSON Pointer (RFC
	// 6901), in which an item of an array may also be named by a member, as in
	// /stations/[id=42]. What it does not lead to is null until it does. Like those of
	// all other options, it is a pointer into the upstream's document. Default: "",
	// the whole document.
	Select string `json:"select,omitempty"`

	// What else clients may ask for with the query parameter sse_select: patterns,
	// which are pointers in which * stands for any member or item, also one named as
	// in [id=42]: who may select an item may find out which one has some value. [id=*]
	// stands for items named by that member only. Default: none.
	Selectable []string `json:"selectable,omitempty"`

	// Patterns for what changes all the time, such as the time of a response. A change
	// of nothing else makes no event, but is part of the next one. Clients that select
	// just that are sent it nevertheless. Default: none.
	Ignore []string `json:"ignore,omitempty"`

	// What tells the items of an array apart. Default: the member id, where every
	// item of the array has one and no two have the same.
	Key []arrayKey `json:"key,omitempty"`

	// The names of the query parameters that are forwarded to the upstream; ["*"]
	// for all, ["none"] for none. Requests that differ in others share a document.
	// Default: ["*"].
	Query []string `json:"query,omitempty"`

	// The names of the header fields that are forwarded to the upstream. Only
	// clients that send the same values share a document. Default: none, not even
	// cookies and authorization.
	ForwardHeader []string `json:"forward_header,omitempty"`

	// How much is kept for clients that come back, for each format and part that
	// clients ask for. One that was away for longer gets the whole document.
	// Compressed copies, which are made if a client asks for them, come on top: at
	// most twice as much.
	History history `json:"history,omitzero"`

	// After how long a silence a comment is sent, so that nobody on the way takes
	// the connection for dead. Default: 15s.
	Heartbeat caddy.Duration `json:"heartbeat,omitempty"`

	// After which time clients reconnect, drawn for each connection. Default: 1s to
	// 4s; where only min is given, max is four times that.
	Retry retry `json:"retry,omitzero"`

	// Over what time the streams of an unloaded configuration end, so that not all
	// clients reconnect at once. Default: 3s.
	Drain caddy.Duration `json:"drain,omitempty"`

	// How long a stream lasts, ±10 %, until the client has to reconnect, and so to
	// pass again whatever guards the route. Negative: for ever. Default: 1h.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How many documents may be polled at a time. Clients that ask for more are told
	// to come back later. Default: 1000.
	MaxPollers int `json:"max_pollers,omitempty"`

	// How many streams and long-polls may be open at a time. Default: 100000.
	MaxStreams int `json:"max_streams,omitempty"`

	// How many different wishes (sse_format, sse_select) clients may have of one
	// document at a time. A wish is kept as long as linger after its last client, but
	// gives way to others. Clients with one too many are told to come back later,
	// unless they use no sse_select. Default: 32.
	MaxViews int `json:"max_views,omitempty"`

	// The size in bytes that a document may have; a larger one is not good, and the
	// last good one is kept. Default: 16 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// How events are compressed for clients that accept it: "gzip", once for all of
	// them, or "off", for instance where the length of an event must not tell what it
	// repeats. The handler encode compresses no stream, whatever is set here. Default:
	// gzip.
	Compress string `json:"compress,omitempty"`

	// Where the client module is served, a JavaScript module of 2 KB that keeps a page's
	// copy of a document up to date: a path such as /poll_sse.js, in requests that reach
	// the handler. (In a Caddyfile the matcher of the directive does not matter.) Default:
	// none.
	Client string `json:"client,omitempty"`

	// Where the inspector is served, a page that shows a stream at work: a path such as
	// /inspect, as that of the client module. Whoever can open a stream is then told about
	// each poll too, who asks for it with sse_status=polls. Default: none.
	Inspect string `json:"inspect,omitempty"`

	server       string        // its name
	poolKey      string        // of the resource pool
	pool         *resourcePool // referred to from Provision to Cleanup
	ordinalKey   ordinalKey    // among identical handlers of the server
	generation   uint64        // grows with each handler that is provisioned
	writeTimeout time.Duration // of the server, 0 if none
	logger       *zap.Logger
	emit         *atomic.Pointer[emitter]
	draining     chan struct{} // closed when the configuration is unloaded
	beginDrain   func()
	exiting      chan struct{} // closed when the process ends
	beginExit    func()
	open         *openStreams
	warnedAt     map[string]*atomic.Int64 // the second of the newest warning of each kind
}

// arrayKey names the member that tells the items of an array apart.
type arrayKey struct {
	// Where the array is: a JSON Pointer (RFC 6901), "" for the document itself, in
	// which * stands for any member or item. The first key that fits an array counts.
	Pointer string `json:"pointer"`

	// The name of the member.
	Member string `json:"member"`
}

// history bounds what is kept of a document's changes.
type history struct {
	// The number of events. Default: 1000.
	Events int `json:"events,omitempty"`

	// Their size in bytes. Default: 8 MiB.
	Size int64 `json:"size,omitempty"`
}

// retry is a range to draw from.
type retry struct {
	Min caddy.Duration `json:"min,omitempty"`
	Max caddy.Duration `json:"max,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.poll_sse",
		New: func() caddy.Module { return new(Handler) },
	}
}

// generations counts the handlers that were ever provisioned.
var generations atomic.Uint64

// ordinals counts, in an atomic.Int64, the handlers of a server that are configured
// alike, so that each has resources of its own.
var ordinals = caddy.NewUsagePool()

type ordinalKey struct {
	server *caddyhttp.Server // a new one in each configuration
	config string
}

// Provision fills in the defaults and checks the configuration. It starts nothing:
// validating a configuration provisions it too.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.draining, h.exiting = make(chan struct{}), make(chan struct{})
	h.warnedAt = make(map[string]*atomic.Int64)
	for _, kind := range []string{string(limitPollers), string(limitStreams), string(limitViews), causeUnanswered} {
		h.warnedAt[kind] = new(atomic.Int64)
	}
	h.open = newOpenStreams(h.exiting)
	h.beginDrain = sync.OnceFunc(func() { close(h.draining); h.pool.wakeStreams() })
	h.beginExit = sync.OnceFunc(func() { close(h.exiting); h.pool.wakeStreams() })
	h.setDefaults()
	if err := h.check(); err != nil {
		return err
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("poll_sse works only in the routes of an HTTP server")
	}
	if h.writeTimeout = time.Duration(server.WriteTimeout); h.writeTimeout > 0 {
		h.logger.Warn("the server's write_timeout ends event streams early; clients reconnect and resume",
			zap.Duration("write_timeout", h.writeTimeout))
	}
	var err error
	if h.emit, err = newEmitter(ctx); err != nil {
		return err
	}
	if err := registerMetrics(ctx); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	config, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encoding configuration: %w", err)
	}
	h.ordinalKey = ordinalKey{server, string(config)}
	counter, _ := ordinals.LoadOrStore(h.ordinalKey, new(atomic.Int64))
	ordinal := counter.(*atomic.Int64).Add(1)
	h.server = server.Name()
	h.poolKey = lengthPrefixed(h.server, h.ordinalKey.config, strconv.FormatInt(ordinal, 10))
	pool, _, err := resourcePools.LoadOrNew(h.poolKey, newResourcePool)
	if err != nil {
		return fmt.Errorf("making resource pool: %w", err)
	}
	h.pool = pool.(*resourcePool)
	h.generation = generations.Add(1)
	// What Caddy does later in a configuration's life comes after its server has
	// waited for the streams to end.
	server.RegisterOnShutdown(h.shutDown)
	server.RegisterConnContext(withConn)
	return nil
}

// shutDown ends the streams: at once where the process ends, else spread over the
// drain time, as long as the process does not end meanwhile. The server calls it on
// a goroutine of its own.
func (h *Handler) shutDown() {
	h.beginDrain()
	began := time.Now()
	for time.Since(began) < time.Duration(h.Drain) || h.open.any() {
		if caddy.Exiting() {
			h.beginExit()
			h.open.awaitEnd()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (h *Handler) isDraining() bool { return isClosed(h.draining) }

// Cleanup releases what Provision took.
func (h *Handler) Cleanup() error {
	if h.pool == nil {
		return nil // not provisioned to the end
	}
	h.beginDrain()
	h.emit.Store(nil) // keeps all of the configuration alive
	h.pool.retire(h)
	_, err := resourcePools.Delete(h.poolKey)
	ordinals.Delete(h.ordinalKey)
	return err
}

// ServeHTTP serves a stream, a file of ours, answers a long-poll, or passes the request
// on.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if f := h.file(r); f != nil {
		f.serve(w, r)
		return nil
	}
	ask, ok, err := h.ask(r)
	if !ok {
		return h.pass(w, r, next)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil
	}
	pooled, _, err := resourcePools.LoadOrNew(h.poolKey, newResourcePool)
	if err != nil {
		return err
	}
	defer resourcePools.Delete(h.poolKey)
	pool := pooled.(*resourcePool)
	res, verdict, over := h.join(pool, r, next, ask.resuming)
	switch {
	case over != "":
		return h.refuse(w, r, over)
	case verdict == verdictPass:
		return h.pass(w, r, next)
	case verdict == verdictGone:
		return nil
	case verdict == verdictLater:
		return h.turnAway(w, r, between(h.Retry.Min, h.Retry.Max))
	}
	defer pool.leave(h, res)
	if !ask.stream && res.rejected() {
		return h.pass(w, r, next)
	}
	v := res.watch(h, ask.wish)
	if v == nil {
		return h.refuse(w, r, limitViews)
	}
	defer res.unwatch(h, v)
	if !ask.stream {
		return h.serveLongPoll(w, r, next, res, v, ask)
	}
	h.serveStream(r, h.newStream(w, r, res, v, ask), ask.format)
	return nil // the header is written: an error would start error routes on top of it
}

// join finds the resource that r asks for and what its first poll says. Only where it is
// to be served the caller has to leave the resource.
func (h *Handler) join(pool *resourcePool, r *http.Request, next caddyhttp.Handler, resuming bool) (*resource, verdict, limit) {
	src := &source{h, next, r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server), trace.SpanFromContext(r.Context()).TracerProvider()}
	t := h.newTarget(r)
	for !h.isDraining() {
		res, over := pool.join(h, t)
		if over != "" {
			return nil, verdictLater, over
		}
		res.follow(src)
		verdict := res.firstPoll(r.Context(), h, resuming)
		if verdict == verdictServe {
			return res, verdict, ""
		}
		pool.leave(h, res)
		if verdict != verdictEnded { // else another one takes its place
			return nil, verdict, ""
		}
	}
	return nil, verdictLater, ""
}

// newStream returns the stream of a view that answers r.
func (h *Handler) newStream(w http.ResponseWriter, r *http.Request, res *resource, v *view, ask *ask) *stream {
	s := &stream{
		handler:  h,
		resource: res,
		log:      v.log,
		notices:  ask.notices,
		text:     preamble(r, between(h.Retry.Min, h.Retry.Max)),
		response: newResponse(w, r, h.open),
		ends:     ask.began.Add(h.lifetime()),
	}
	if len(ask.known) > 0 {
		s.cursor = ask.known[0]
	}
	return s
}

// serveStream serves the stream that answers r, with events of that format, to its end.
func (h *Handler) serveStream(r *http.Request, s *stream, format string) {
	open := streamsOpen.WithLabelValues(h.server)
	open.Inc()
	defer open.Dec()
	s.resource.open.Add(1)
	defer s.resource.open.Add(-1)
	defer s.response.close()
	encoding := "identity"
	if h.Compress == compressGzip && acceptsGzip(r) {
		encoding = compressGzip
	}
	s.tally = newTally(h.server, format, encoding)
	s.response.begin(encoding == compressGzip)
	h.logger.Debug("stream opened", s.resource.field())
	why := s.serve(r.Context())
	if why != endWriteFailed && why != endClientLeft {
		s.response.end()
		s.tally.sent(0, s.response.sent)
	}
	streamEndsTotal.WithLabelValues(h.server, why).Inc()
	h.logger.Debug("stream ended", s.resource.field(), s.tally.field(why))
	addLogField(r, s.tally.field(why))
	if why == endWriteFailed || why == endClientLeft {
		s.response.breakOff(r)
	}
}

// refuse tells a client that a limit keeps out to come back later.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, over limit) error {
	refusalsTotal.WithLabelValues(h.server, string(over)).Inc()
	addLogField(r, zap.Dict("stream", zap.String("end", string(over))))
	if h.mayWarn(string(over)) {
		h.logger.Warn("limit reached; telling clients to come back later", zap.String("limit", string(over)))
	}
	return h.turnAway(w, r, between(caddy.Duration(15*time.Second), caddy.Duration(60*time.Second)))
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
