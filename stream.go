package pollsse

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// stream is one client's response: a cursor into the log of a view, and what the
// events after it are written to.
type stream struct {
	handler  *Handler
	resource *resource
	log      *eventLog
	response *response
	notices  notices   // what the client wants to be told; who wants any sees heartbeats too
	ends     time.Time // at the latest

	// Of the goroutine that serves it.
	cursor  eventID
	text    []byte          // what only this client is sent next
	events  []*frame        // memory for the next batch
	turned  <-chan struct{} // closed when the status is another than the one told
	silence time.Duration   // before the next heartbeat
	beat    time.Time       // when it is due
	tally   tally
}

// Why a stream ended, as metrics and logs say it.
const (
	endClientLeft  = "client_left"
	endWriteFailed = "write_failed"
	endAge         = "age" // of the stream
	endDrain       = "drain"
	endWithdrawn   = "withdrawn"
	endRollback    = "rollback" // of the configuration whose route was polled
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
	draining, atLast := false, endAge
	for {
		changed, err := s.deliver()
		switch {
		case err == nil:
		case errors.Is(err, errExiting) || s.response.wasCut():
			return endWriteFailed
		default:
			return endClientLeft
		}
		// Whatever ends streams wakes them like an event: to wait for few channels is
		// cheaper than for many.
		switch {
		case s.resource.isEnded():
			return s.resource.endedBy
		case isClosed(h.exiting):
			return endExit
		case !draining && h.isDraining():
			draining = true
			if end := time.Now().Add(rand.N(time.Duration(h.Drain))); end.Before(s.ends) {
				s.ends, atLast = end, endDrain
				timer.Reset(min(time.Until(s.beat), time.Until(end)))
			}
		}
		select {
		case <-changed:
		case <-s.turned:
		case <-due:
			now := time.Now()
			if !now.Before(s.ends) {
				return atLast
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
	if s.notices != noNotices {
		status, next := s.resource.upstream(s.handler, s.notices)
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
		err := s.response.write(now, s.text, b.events)
		if err != nil {
			s.tally.sent(0, s.response.sent)
			return nil, err
		}
		s.tally.sent(len(b.events), s.response.sent)
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
	if s.notices != noNotices {
		return appendNotice(nil, eventPing, []byte("{}"))
	}
	return []byte(heartbeat)
}

// count notes how the stream has found its place at first, and whether it has lost it
// since.
func (s *stream) count(b batch) {
	switch {
	case s.tally.resume == "" && s.cursor == eventID{}:
		s.tally.found("new")
	case s.tally.resume == "":
		s.tally.found(string(b.how))
	case b.how == resumedSmaller:
		s.tally.slow("held")
	case b.how == resumedSnapshot && s.log.maxEvents > 0:
		s.tally.slow("evicted")
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

// preamble returns what the stream that answers r begins with.
func preamble(r *http.Request, retry time.Duration) (b []byte) {
	for p := range parameters(originalURL(r).RawQuery) {
		if p.isPadding() {
			b = append(b, padding...)
			break
		}
	}
	if fromWebKit(r) {
		return appendResynchronisation(b, lastEventID(r), retry)
	}
	return appendPreamble(b, retry)
}

// turnAway answers a client that shall come back after retry: a long-poll with 503, a
// stream with 200, since any other status would end an EventSource for good, whatever
// Retry-After says.
func (h *Handler) turnAway(w http.ResponseWriter, r *http.Request, retry time.Duration) error {
	// It shall come back to the server that has taken over. A connection over HTTP/2 that
	// is made just when its server shuts down is not told, and as long as it is never idle
	// the server waits for it. HTTP/3 has no such field (RFC 9114 §4.2).
	if h.isDraining() && r.ProtoMajor < 3 {
		w.Header().Set("Connection", "close")
	}
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
