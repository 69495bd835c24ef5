package pollsse

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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

	sent int64 // bytes, of the goroutine that writes

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
		n, _ := r.w.Write(gzipHeader)
		r.sent += int64(n)
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
		n, err := r.w.Write(bytes[:chunk])
		r.sent += int64(n)
		if err != nil {
			return err
		}
		if isClosed(r.open.exiting) {
			return errExiting
		}
		bytes = bytes[chunk:]
		r.since.Store(uptime(time.Now()))
	}
	n, err := r.w.Write(bytes)
	r.sent += int64(n)
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
	n, _ := r.w.Write(text)
	r.sent += int64(n)
	r.controller.Flush()
}

// breakOff ends the response to r, if somebody may still be there to take it for complete
// although a write has failed in the middle: over HTTP/3, where the stream outlives the
// deadline of a write, and where a write was given up because the process ends.
func (r *response) breakOff(request *http.Request) {
	if request.Context().Err() == nil && (request.ProtoMajor == 3 || isClosed(r.open.exiting)) {
		panic(http.ErrAbortHandler)
	}
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

// wasCut reports whether a write has been ended by cutLocked.
func (r *response) wasCut() bool {
	r.open.mu.Lock()
	defer r.open.mu.Unlock()
	return r.cutSince != 0
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
	// exitStall is how long a write may take after that, once exitLooks looks, as far
	// apart, have found none that ends.
	exitStall = 20 * time.Millisecond
	exitLooks = 10
	// exitLongest is after how long writes are cut even if some end: clients could take turns.
	exitLongest = 2 * time.Second
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

func (o *openStreams) any() bool { return o.count() > 0 }

func (o *openStreams) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.responses)
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

// awaitEnd waits until all have ended, which those that come to it do by themselves when
// the process ends, on a busy machine later than others. Those that write while none ends
// are not read: they are cut.
func (o *openStreams) awaitEnd() {
	time.Sleep(exitGrace)
	last := time.Now().Add(exitLongest)
	for open, still := o.count(), 0; open > 0; {
		time.Sleep(exitStall)
		before := open
		if open = o.count(); open < before {
			still = 0
		} else {
			still++
		}
		if still >= exitLooks || time.Now().After(last) {
			o.cutStalled(exitStall)
		}
	}
}

// cutStalled ends the writes of chunks that have taken that long, and, where that does
// not help in as much time again, their connections. A look at all streams now and then
// costs less than a deadline for each write.
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
