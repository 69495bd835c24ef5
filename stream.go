package pollsse

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// stream is one client's response: a cursor into the log of a view, and what the
// events after it are written to.
type stream struct {
	handler  *Handler
	resource *resource
	log      *eventLog
	response *response
	notices  bool      // the client wants to be told about the upstream, and to see heartbeats
	ends     time.Time // at the latest

	// Of the goroutine that serves it.
	cursor  eventID
	how     resumption      // how the cursor was found last
	text    []byte          // what only this client is sent next
	events  []*frame        // memory for the next batch
	turned  <-chan struct{} // closed when the status is another than the one told
	silence time.Duration   // before the next heartbeat
	beat    time.Time       // when it is due
}

// Why a stream ended, as metrics and logs say it.
const (
	endClientLeft  = "client_left"
	endWriteFailed = "write_failed"
	endAge         = "age" // of the stream, or drained
	endWithdrawn   = "withdrawn"
	endExit        = "exit"
)

// serve writes events until the client leaves or the stream is to end, and returns
// why it ended.
func (s *stream) serve(ctx context.Context) (why string) {
	h := s.handler
	// The first heartbeat comes at a random phase: streams that begin together, after
	// a restart say, do not beat together.
	s.silence = rand.N(time.Duration(h.Heartbeat))
	// One timer for what is due next. Deliveries put off the heartbeat, but leave the
	// timer alone: it finds out when it fires. Its channel is made here, since to wait
	// for a timer's own takes a place in the runtime's heap each time.
	due := make(chan struct{}, 1)
	timer := time.AfterFunc(min(s.silence, time.Until(s.ends)), func() {
		select {
		case due <- struct{}{}:
		default:
		}
	})
	defer timer.Stop()
	left := ctx.Done()
	draining := false
	for {
		changed, err := s.deliver()
		if err != nil {
			return endWriteFailed
		}
		// Whatever ends streams wakes them like an event: to wait for few channels is
		// cheaper than for many.
		switch {
		case s.resource.isEnded():
			return endWithdrawn
		case isClosed(h.exiting):
			return endExit
		case !draining && h.isDraining():
			draining = true
			if end := time.Now().Add(rand.N(time.Duration(h.Drain))); end.Before(s.ends) {
				s.ends = end
				timer.Reset(min(time.Until(s.beat), time.Until(end)))
			}
		}
		select {
		case <-changed:
		case <-s.turned:
		case <-due:
			now := time.Now()
			if !now.Before(s.ends) {
				return endAge
			}
			if !now.Before(s.beat) {
				s.text, s.beat = s.heartbeat(), now.Add(s.silence)
			}
			timer.Reset(min(s.beat.Sub(now), s.ends.Sub(now)))
		case <-left:
			return endClientLeft
		}
	}
}

// deliver writes what the client is to be sent next, and returns what is closed when
// there may be more.
func (s *stream) deliver() (changed <-chan struct{}, err error) {
	if s.notices {
		status, next := s.resource.upstream(s.handler.generation)
		if next != s.turned && next != nil {
			s.text = append(s.text, status.event()...)
		}
		s.turned = next
	}
	b := s.log.after(s.cursor, s.handler.generation, s.events)
	if len(b.events) > 0 || b.how == resumedHeld || b.how == resumedDigest {
		s.count(b)
	}
	if len(s.text) > 0 || len(b.events) > 0 {
		now := time.Now()
		if err := s.response.write(now, s.text, b.events); err != nil {
			return nil, err
		}
		s.beat, s.silence = now.Add(s.silence), time.Duration(s.handler.Heartbeat)
	}
	// A stream that waits must not keep anything alive that nobody needs.
	s.cursor, s.text, s.events = b.cursor, nil, reusable(b.events)
	return b.changed, nil
}

// reusable returns the memory of events, if it is not much.
func reusable(events []*frame) []*frame {
	if cap(events) > 4 {
		return nil
	}
	clear(events)
	return events[:0]
}

func (s *stream) heartbeat() []byte {
	if s.notices {
		return appendNotice(nil, eventPing, []byte("{}"))
	}
	return []byte(heartbeat)
}

// count notes how the stream has found its place at first, and whether it has lost it
// since.
func (s *stream) count(b batch) {
	before := s.how
	s.how = b.how
	switch {
	case before == "" && s.cursor == eventID{}:
		resumesTotal.WithLabelValues("new").Inc()
	case before == "", b.how == resumedSmaller:
		resumesTotal.WithLabelValues(string(b.how)).Inc()
	case b.how == resumedSnapshot && s.log.maxEvents > 0:
		resumesTotal.WithLabelValues("lagging").Inc()
	}
}

// lifetime draws how long after its request a stream ends: after about max_age, and
// before the server's write_timeout, which no handler can lift, so that it ends
// cleanly.
func (h *Handler) lifetime() time.Duration {
	lifetime := forever
	if h.MaxAge > 0 {
		lifetime = jitter(time.Duration(h.MaxAge))
	}
	if h.writeTimeout > 0 {
		lifetime = min(lifetime, h.writeTimeout*8/10+rand.N(h.writeTimeout*15/100+1))
	}
	return lifetime
}

const forever = 100 * 365 * 24 * time.Hour

const (
	// chunk is how much is written under one deadline, so that a slow line is slow
	// and only a dead one is cut.
	chunk         = 64 << 10
	chunkDeadline = 10 * time.Second
	// patrolInterval is how late that is noticed at most.
	patrolInterval = time.Second
)

// response writes to a client. One that takes too long for a chunk is cut off by
// [openStreams].
type response struct {
	w          http.ResponseWriter
	controller *http.ResponseController
	gzip       *gzipStream // nil where what is written is not compressed
	open       *openStreams
	restore    func()       // what was changed of Caddy's writer
	since      atomic.Int64 // when the chunk that is being written was begun, see [uptime], or 0

	own   http.ResponseWriter // the server's, inside all that is around it
	conn  net.Conn            // nil over HTTP/3
	isH1  bool
	begun bool // an event stream

	cutSince int64     // the value of since when it was cut last; guarded by the lock of open
	cutAt    time.Time // when that was; likewise
}

// newResponse returns a response to r, to be closed. Until then it keeps Caddy from
// moving the deadline with each write and each flush, which takes a seventh of the time
// of a delivery.
func newResponse(w http.ResponseWriter, r *http.Request, open *openStreams) *response {
	response := &response{open: open, own: serversOwn(w), isH1: r.ProtoMajor == 1, restore: func() {}}
	response.conn, _ = r.Context().Value(connKey{}).(net.Conn)
	if _, idle := caddyhttp.IdleTimeoutsFromContext(r.Context()); idle != nil && w == idle {
		w = idle.ResponseWriter
	} else if idle != nil {
		controller := idle.Ctrl
		idle.Ctrl = noDeadlines
		response.restore = func() { idle.Ctrl = controller }
	}
	response.w, response.controller = w, http.NewResponseController(w)
	open.add(response)
	return response
}

// close ends what newResponse has begun.
func (r *response) close() {
	r.open.remove(r)
	// net/http ends a response over HTTP/1.1 by another write, and clears its deadline.
	if r.isH1 && r.begun && r.cutSince == 0 {
		http.NewResponseController(r.own).SetWriteDeadline(time.Now().Add(chunkDeadline))
	}
	r.restore()
}

// connKey is the key of a connection in the context of its requests.
type connKey struct{}

// withConn adds a connection to the context of its requests.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx // another handler has done so
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// noDeadlines is a controller whose deadlines are none.
var noDeadlines = http.NewResponseController(timeless{})

type timeless struct{ http.ResponseWriter }

func (timeless) SetWriteDeadline(time.Time) error { return nil }

// begin sends the header of an event stream; flushing is up to the first write.
func (r *response) begin(compress bool) {
	header := r.w.Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	// no-transform keeps compressing proxies, Caddy's encode among them, from
	// holding events back (RFC 9111 §5.2.2.6).
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("X-Accel-Buffering", "no") // the same for nginx
	header.Add("Vary", "Accept, Accept-Encoding")
	header.Del("Content-Length")
	if compress {
		header.Set("Content-Encoding", "gzip")
		r.gzip = new(gzipStream)
	}
	r.begun = true
	r.w.WriteHeader(http.StatusOK)
	if compress {
		r.w.Write(gzipHeader)
	}
}

// write writes a text that is for this client only, then events, and flushes them. It
// takes the events out of their slice as it goes.
func (r *response) write(now time.Time, text []byte, events []*frame) error {
	r.since.Store(uptime(now))
	defer r.since.Store(0)
	if r.gzip != nil {
		text = r.gzip.text(text)
	}
	if len(text) > 0 {
		if err := r.chunks(text); err != nil {
			return err
		}
	}
	for i, f := range events {
		if err := r.chunks(r.bytesOf(f)); err != nil {
			return err
		}
		events[i] = nil // the rest may take its time
	}
	if err := r.controller.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// bytesOf returns a frame as it is written.
func (r *response) bytesOf(f *frame) []byte {
	if r.gzip == nil {
		return f.text
	}
	if len(f.text) > chunk { // takes a while, which is no fault of the client
		r.since.Store(0)
		defer func() { r.since.Store(uptime(time.Now())) }()
	}
	return r.gzip.frame(f)
}

var errExiting = errors.New("the process ends")

func (r *response) chunks(bytes []byte) error {
	for len(bytes) > chunk {
		if _, err := r.w.Write(bytes[:chunk]); err != nil {
			return err
		}
		if isClosed(r.open.exiting) {
			return errExiting
		}
		bytes = bytes[chunk:]
		r.since.Store(uptime(time.Now()))
	}
	_, err := r.w.Write(bytes)
	return err
}

// end completes what was written.
func (r *response) end() {
	if r.gzip == nil && r.isH1 {
		return
	}
	// Over HTTP/2 a write is not sent yet when it returns. This one waits until the one
	// before is, and can be cut, as the end of the stream cannot.
	text := []byte(heartbeat)
	if r.gzip != nil {
		text = r.gzip.trailer()
	}
	r.since.Store(uptime(time.Now()))
	defer r.since.Store(0)
	r.w.Write(text)
	r.controller.Flush()
}

// cutLocked ends a write that blocks since then, while the handler runs, under the lock
// of [openStreams].
func (r *response) cutLocked(since int64, patience time.Duration) {
	if r.cutSince == since {
		// Over HTTP/2 a deadline resets the stream, which takes a write too: where the
		// connection is stalled, only its end helps.
		if r.conn != nil && time.Since(r.cutAt) >= patience {
			r.conn.Close()
		}
		return
	}
	r.cutSince, r.cutAt = since, time.Now()
	// The writers that Caddy puts around the server's own are not made for two
	// goroutines; the server's is.
	http.NewResponseController(r.own).SetWriteDeadline(time.Unix(1, 0))
}

// serversOwn returns the writer that the server made, inside those around it.
func serversOwn(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}

var started = time.Now()

// uptime returns a time as nanoseconds that no change of the clock moves.
func uptime(t time.Time) int64 { return int64(t.Sub(started)) }

const (
	// exitGrace is how long streams have to end by themselves when the process ends.
	exitGrace = 250 * time.Millisecond
	// exitStall is how long a write may take after that.
	exitStall = 20 * time.Millisecond
	// exitPatience is how long its end may take, before the connection is closed.
	exitPatience = 500 * time.Millisecond
)

// openStreams are the responses that may be written to.
type openStreams struct {
	exiting chan struct{} // closed when the process ends

	mu        sync.Mutex // guards all below, and keeps responses from ending while they are cut
	responses map[*response]struct{}
	patrol    *time.Timer // calls look while there are any
}

func newOpenStreams(exiting chan struct{}) *openStreams {
	return &openStreams{exiting: exiting, responses: make(map[*response]struct{})}
}

func (o *openStreams) add(r *response) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.responses) == 0 {
		o.patrol = time.AfterFunc(patrolInterval, o.look)
	}
	o.responses[r] = struct{}{}
}

func (o *openStreams) remove(r *response) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.responses, r)
	if len(o.responses) == 0 {
		o.patrol.Stop()
	}
}

func (o *openStreams) any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.responses) > 0
}

// look cuts what has stalled, from time to time.
func (o *openStreams) look() {
	o.cutStalled(chunkDeadline)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.responses) > 0 {
		o.patrol.Reset(patrolInterval)
	}
}

// cutStalled ends the writes of chunks that have taken that long, and, where that does not
// help in as much time again, their connections. A look at all streams
// now and then costs less than a deadline for each write.
func (o *openStreams) cutStalled(limit time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	latest := uptime(time.Now().Add(-limit))
	for r := range o.responses {
		if since := r.since.Load(); since != 0 && since <= latest {
			r.cutLocked(since, max(limit, exitPatience))
		}
	}
}

// preamble returns what the stream that answers r begins with.
func preamble(r *http.Request, retry time.Duration) (b []byte) {
	for p := range parameters(originalURL(r).RawQuery) {
		if p.isPadding() {
			b = append(b, padding...)
			break
		}
	}
	if fromWebKit(r) {
		return appendResynchronisation(b, r.Header.Get("Last-Event-ID"), retry)
	}
	return appendPreamble(b, retry)
}

// turnAway answers a client that shall come back after retry: a long-poll with 503, a
// stream with 200, since any other status would end an EventSource for good, whatever
// Retry-After says.
func (h *Handler) turnAway(w http.ResponseWriter, r *http.Request, retry time.Duration) error {
	if !wantsStream(r) { // a long-poll
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	response := newResponse(w, r, h.open)
	defer response.close()
	response.begin(false)
	response.write(time.Now(), preamble(r, retry), nil)
	return nil
}

// between draws a duration from min to max.
func between(min, max caddy.Duration) time.Duration {
	return time.Duration(min + rand.N(max-min+1))
}
