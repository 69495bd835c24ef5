package pollsse

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// stream is one client's response: a cursor into the log of a view, and what the
// events after it are written to.
type stream struct {
	handler  *Handler
	resource *resource
	log      *eventLog
	cursor   eventID
	notices  bool // the client wants to be told about the upstream, and to see heartbeats
	response *response
	ends     time.Time // at the latest
}

// serve writes events until the client leaves or the stream is to end, and returns
// why it ended. It begins with the preamble.
func (s *stream) serve(ctx context.Context, preamble []byte) (why string) {
	h := s.handler
	// The first heartbeat comes at a random phase: streams that begin together, after
	// a restart say, do not beat together.
	silence := rand.N(time.Duration(h.Heartbeat))
	beat := time.NewTimer(silence)
	defer beat.Stop()
	end := time.NewTimer(time.Until(s.ends))
	defer end.Stop()
	draining := h.draining
	beats := []byte(heartbeat)
	if s.notices {
		beats = appendNotice(nil, eventPing, []byte("{}"))
	}

	pending := [][]byte{preamble}
	var how resumption
	var turned <-chan struct{} // closed when the status is another than the one told
	for {
		if s.notices {
			status, next := s.resource.upstream(h.generation)
			if next != turned && next != nil {
				pending = append(pending, status.event())
			}
			turned = next
		}
		b := s.log.after(s.cursor, h.generation)
		if len(b.events) > 0 || b.how == resumedHeld || b.how == resumedDigest {
			s.count(how, b)
			how = b.how
		}
		if pending = append(pending, b.events...); len(pending) > 0 {
			if err := s.response.write(pending, h.exiting); err != nil {
				return "write_failed"
			}
			// A stream that waits must not keep a document alive that nobody needs.
			clear(pending)
			pending, b.events = pending[:0], nil
			beat.Reset(silence)
			silence = time.Duration(h.Heartbeat)
		}
		s.cursor = b.cursor

		select {
		case <-b.changed:
		case <-turned:
		case <-beat.C:
			pending = append(pending, beats)
		case <-end.C:
			return "age"
		case <-draining:
			draining = nil
			end.Reset(min(rand.N(time.Duration(h.Drain)), time.Until(s.ends)))
		case <-h.exiting:
			return "exit"
		case <-s.resource.ended:
			return "withdrawn"
		case <-ctx.Done():
			return "client_left"
		}
	}
}

// count notes how the stream found its place at first, and whether it has lost it
// since.
func (s *stream) count(before resumption, b batch) {
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
)

// response writes to a client.
type response struct {
	w          http.ResponseWriter
	controller *http.ResponseController
}

func newResponse(w http.ResponseWriter) *response {
	return &response{w, http.NewResponseController(w)}
}

// begin sends the header of an event stream; flushing is up to the first write.
func (r *response) begin() {
	header := r.w.Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	// no-transform keeps compressing proxies, Caddy's encode among them, from
	// holding events back (RFC 9111 §5.2.2.6).
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("X-Accel-Buffering", "no") // the same for nginx
	header.Add("Vary", "Accept, Accept-Encoding")
	header.Del("Content-Length")
	r.w.WriteHeader(http.StatusOK)
}

// write writes parts, in one go where they are small, and flushes them. It gives up
// between chunks when exiting is closed.
func (r *response) write(parts [][]byte, exiting <-chan struct{}) error {
	// An armed deadline would reset an idle stream over HTTP/2.
	defer r.controller.SetWriteDeadline(time.Time{})
	for _, piece := range pieces(parts) {
		for len(piece) > 0 {
			n := min(len(piece), chunk)
			if err := r.arm(exiting); err != nil {
				return err
			}
			if _, err := r.w.Write(piece[:n]); err != nil {
				return err
			}
			piece = piece[n:]
		}
	}
	if err := r.arm(exiting); err != nil {
		return err
	}
	if err := r.controller.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

var errExiting = errors.New("the process ends")

// arm sets the deadline of the next chunk. Only then does it look whether the
// process ends, so that a deadline set by [response.cut] is never overwritten unseen.
func (r *response) arm(exiting <-chan struct{}) error {
	r.controller.SetWriteDeadline(time.Now().Add(chunkDeadline))
	select {
	case <-exiting:
		return errExiting
	default:
		return nil
	}
}

// cut ends a write that blocks. Other goroutines may call it while the handler runs.
func (r *response) cut() {
	// The writers that Caddy puts around the server's own are not made for two
	// goroutines; the server's is.
	w := r.w
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = outer.Unwrap()
	}
	http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
}

// exitGrace is how long streams have to end by themselves when the process ends.
const exitGrace = 250 * time.Millisecond

// openStreams are the responses that are being written to.
type openStreams struct {
	mu        sync.Mutex // guards responses, and keeps them from ending while they are cut
	responses map[*response]struct{}
}

func (o *openStreams) add(r *response) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.responses[r] = struct{}{}
}

func (o *openStreams) remove(r *response) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.responses, r)
}

func (o *openStreams) any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.responses) > 0
}

// cut ends all writes that block, so that a client which does not read cannot hold
// up the end of the process.
func (o *openStreams) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r := range o.responses {
		r.cut()
	}
}

// pieces joins neighbours of together at most a chunk, so that events that are
// pending together go out in one write, and leaves large parts as they are.
func pieces(parts [][]byte) [][]byte {
	if len(parts) == 1 {
		return parts
	}
	var joined [][]byte
	var small []byte
	for _, part := range parts {
		if len(small) > 0 && len(small)+len(part) > chunk {
			joined, small = append(joined, small), nil
		}
		if len(part) > chunk {
			joined = append(joined, part)
		} else {
			small = append(small, part...)
		}
	}
	if len(small) > 0 {
		joined = append(joined, small)
	}
	return joined
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
func turnAway(w http.ResponseWriter, r *http.Request, retry time.Duration) error {
	if !wantsStream(r) { // a long-poll
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	response := newResponse(w)
	response.begin()
	response.write([][]byte{preamble(r, retry)}, nil)
	return nil
}

// between draws a duration from min to max.
func between(min, max caddy.Duration) time.Duration {
	return time.Duration(min + rand.N(max-min+1))
}
