package pollsse

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
)

// resource is one polled document, shared by all clients whose requests are alike
// and by all generations of the configuration. Its goroutine polls and feeds the
// views; [resource.close] ends it.
type resource struct {
	id      uint64 // among those of the process
	server  string // the name of the server whose client came first
	created time.Time
	key     string
	poller  poller
	cancel  context.CancelFunc
	stopped chan struct{}    // closed when the goroutine has ended
	ended   chan struct{}    // closed by end
	end     func(why string) // ends the streams, which come back to another resource
	endedBy string           // why; set before ended is closed
	wake    chan struct{}    // holds one token when there is a new source
	written chan struct{}    // holds one token when what is polled may have been written to
	asked   chan struct{}    // holds one token when an operator wants a poll

	// Of the goroutine.
	counted   prometheus.Gauge // where metrics count it
	stale     bool             // as logs have it
	toldStale bool             // as handlers of events have it

	open   atomic.Int64            // streams, in all views
	good   atomic.Bool             // there is a document
	newest atomic.Pointer[Handler] // the newest one that gave a source

	// Fields of the [resourcePool], guarded by its lock.
	streams   map[*Handler]int
	idleSince time.Time
	linger    *time.Timer

	mu        sync.Mutex // guards all below
	source    *source    // nil while nobody's route may be polled
	views     map[wish]*view
	document  *jsondiff.Document // of the last good poll, nil before the first
	polledBy  uint64             // the generation that polled the document first
	confirmed uint64             // the newest generation that polled it
	last      pollResult         // of the newest poll
	lastAt    time.Time          // when that had ended
	lastBy    uint64             // its generation, 0 before the first
	polled    chan struct{}      // closed after the next poll
	status    upstreamStatus
	turned    chan struct{} // closed when the status becomes another
}

// newResource returns a resource that polls as soon as it has a source.
func newResource(h *Handler, t target, key string) *resource {
	// Polls outlive the request that began them and the configuration that it came
	// with, whose contexts both end too early; the pool ends this one.
	ctx, cancel := context.WithCancel(context.Background())
	r := &resource{
		id:      resourceIDs.Add(1),
		server:  h.server,
		created: time.Now(),
		key:     key,
		poller: poller{
			target:      t,
			interval:    time.Duration(h.Interval),
			current:     time.Duration(h.Interval),
			maxInterval: time.Duration(h.MaxInterval),
			timeout:     time.Duration(h.Timeout),
			maxBody:     h.MaxBody,
			differ:      h.differ(wish{}),
		},
		cancel:  cancel,
		stopped: make(chan struct{}),
		ended:   make(chan struct{}),
		streams: make(map[*Handler]int),
		wake:    make(chan struct{}, 1),
		written: make(chan struct{}, 1),
		asked:   make(chan struct{}, 1),
		views:   make(map[wish]*view),
		polled:  make(chan struct{}),
		status:  newUpstreamStatus(time.Duration(h.Interval), time.Duration(h.Heartbeat)),
		turned:  make(chan struct{}),
	}
	var once sync.Once
	r.end = func(why string) {
		once.Do(func() {
			r.endedBy = why
			close(r.ended)
			r.wakeStreams()
		})
	}
	go r.run(ctx)
	return r
}

// close ends the goroutine and waits for it.
func (r *resource) close() {
	r.cancel()
	<-r.stopped
}

// follow makes src the source, unless a newer generation has given one.
func (r *resource) follow(src *source) {
	r.mu.Lock()
	newest := r.newest.Load()
	newer := newest == nil || src.handler.generation > newest.generation || r.source == nil && src.handler == newest
	if newer {
		r.source = src
		r.newest.Store(src.handler)
	}
	r.mu.Unlock()
	if newer {
		ring(r.wake)
	}
}

// rolledBack reports whether a newer generation than that of h has taken over and is
// unloaded again, while h is not: its configuration failed to start. What it polled
// is not for clients of h, and the resource is of no more use.
func (r *resource) rolledBack(h *Handler) bool {
	newest := r.newest.Load()
	return newest != nil && newest.generation > h.generation && newest.isDraining() && !h.isDraining()
}

// unfollow forgets the source if it is of that generation.
func (r *resource) unfollow(generation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.source != nil && r.source.handler.generation == generation {
		r.source = nil
	}
}

func (r *resource) currentSource() *source {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.source
}

// isEnded reports whether no stream may follow the resource any longer.
func (r *resource) isEnded() bool { return isClosed(r.ended) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wakeStreams makes all streams look whether they are to end.
func (r *resource) wakeStreams() {
	for _, v := range r.currentViews() {
		v.log.wake()
	}
}

// watch returns the view for a wish, with one stream more, or nil where there are too
// many views; there is always room for who selects nothing. The caller has to call
// unwatch once.
func (r *resource) watch(h *Handler, w wish) *view {
	r.mu.Lock()
	if v := r.views[w]; v != nil {
		v.streams++
		r.mu.Unlock()
		v.mu.Lock() // who makes it may not have published yet
		defer v.mu.Unlock()
		return v
	}
	for len(r.views) >= h.MaxViews && r.dropViewLocked() {
		evictionsTotal.WithLabelValues(h.server, "view").Inc()
	}
	if len(r.views) >= h.MaxViews && w.pointer != h.Select {
		r.mu.Unlock()
		return nil
	}
	v := h.newView(w)
	v.streams++
	r.views[w] = v
	document, polledBy, confirmed := r.document, r.polledBy, r.confirmed
	// Finding the part of a large document takes time, for which others need not wait;
	// but they may publish in the view only after this.
	v.mu.Lock()
	defer v.mu.Unlock()
	r.mu.Unlock()
	if document != nil {
		v.publishLocked(pollResult{document: document}, polledBy)
		v.confirmLocked(confirmed)
	}
	return v
}

// unwatch undoes watch. A view that its last stream leaves is kept for a while.
func (r *resource) unwatch(h *Handler, v *view) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v.streams--
	v.until = time.Now().Add(time.Duration(h.Linger))
}

// dropViewLocked ends the view that has been without streams for longest, if any is.
func (r *resource) dropViewLocked() bool {
	var idle *wish
	for w, v := range r.views {
		if v.streams == 0 && (idle == nil || v.until.Before(r.views[*idle].until)) {
			idle = &w
		}
	}
	if idle == nil {
		return false
	}
	delete(r.views, *idle)
	return true
}

// run polls until ctx ends or the upstream withdraws the document.
func (r *resource) run(ctx context.Context) {
	defer close(r.stopped)
	timer := time.NewTimer(forever) // the first source wakes us
	defer timer.Stop()
	var notBefore, due time.Time
	var instant time.Time // of the last poll because of a write
	var written bool      // the next one is because of a write too, or of an operator
	var withdrawing bool  // the last one was answered as if the document were withdrawn
	var by uint64         // the generation whose source was polled last
	r.countAs(stateNew)
	defer func() { r.counted.Dec() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ended:
			return
		case <-r.wake: // a new source is asked at once, unless the upstream forbids it
			if src := r.currentSource(); src != nil && src.handler.generation != by {
				due = notBefore
				timer.Reset(time.Until(due))
			}
			continue
		case <-r.written:
			at := latest(time.Now(), instant.Add(instantApart))
			if by != 0 && r.poller.failures == 0 && at.Before(due) {
				due, instant, written = at, at, true
				timer.Reset(time.Until(due))
			}
			continue
		case <-r.asked:
			// What confirms a withdrawal comes when it comes.
			if by != 0 && !withdrawing {
				due, written = latest(time.Now(), notBefore), true
				timer.Reset(time.Until(due))
			}
			continue
		case <-timer.C:
		}
		src := r.currentSource()
		if src == nil {
			by = 0 // whoever comes wakes us
			continue
		}
		by = src.handler.generation
		start := time.Now()
		result := r.poll(ctx, src)
		if ctx.Err() != nil {
			return
		}
		r.count(src.handler, result)
		withdrawing = result.withdrawn()
		result.instant, written = written, false
		due, notBefore = r.poller.next(start, result)
		due = latest(due, notBefore)
		if r.settle(ctx, src, result) {
			return
		}
		timer.Reset(time.Until(due))
	}
}

// instantApart is how far apart polls because of writes are at least.
const instantApart = 100 * time.Millisecond

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// poke makes the resource poll at once: what it polls may have been written to. If a
// poll is on its way, another follows it.
func (r *resource) poke() {
	ring(r.written)
}

// pollNow makes the resource poll as soon as the upstream's Retry-After lets it.
func (r *resource) pollNow() { ring(r.asked) }

// ring leaves a token in c, unless one is there already.
func ring(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// poll polls and publishes what is new.
func (r *resource) poll(ctx context.Context, src *source) (result pollResult) {
	defer func() {
		// A fault of ours must not end the web server around us.
		if v := recover(); v != nil {
			r.forget()
			src.handler.logger.Error("poll panicked", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			result = pollResult{kind: pollFailed, cause: "panic", err: fmt.Errorf("poll panicked: %v", v)}
		}
	}()
	r.endViews()
	result = r.poller.poll(ctx, src)
	if result.good() {
		result.news = r.publish(result, src.handler.generation)
	}
	return result
}

// forget makes the next document be sent whole: comparing it with another has failed.
func (r *resource) forget() {
	r.poller.forget()
	for _, v := range r.currentViews() {
		v.forget()
	}
}

// publish hands a good poll to all views, and reports whether it was news to any.
func (r *resource) publish(result pollResult, generation uint64) (news bool) {
	r.mu.Lock()
	if result.document != nil {
		r.document = result.document
	}
	if result.changed {
		r.polledBy = generation
		r.good.Store(true)
	}
	r.confirmed = max(r.confirmed, generation)
	r.mu.Unlock()
	// A view that is made from now on begins with this document.
	views := r.currentViews()
	news = result.changed && len(views) == 0
	for _, v := range views {
		if result.document == nil {
			v.confirm(generation)
		} else if v.publish(result, generation) {
			news = true
		}
	}
	return news
}

func (r *resource) currentViews() []*view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.views))
}

// endViews ends those that nobody has followed for long enough.
func (r *resource) endViews() {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.views, func(_ wish, v *view) bool { return v.streams == 0 && time.Now().After(v.until) })
}

// settle notes a result, tells those who wait for it, and logs where the upstream
// begins or ceases to fail. It reports whether the document is withdrawn.
func (r *resource) settle(ctx context.Context, src *source, result pollResult) (withdrawn bool) {
	result.document, result.before, result.patch = nil, nil, nil // are published
	var turned chan struct{}
	r.mu.Lock()
	if r.status.update(result, r.poller.current) || r.lastBy != src.handler.generation {
		turned = r.turned
		r.turned = make(chan struct{})
	}
	before, known := r.last, r.lastBy != 0
	withdrawn = result.withdrawn() && before.withdrawn() && r.lastBy == src.handler.generation
	r.last, r.lastBy, r.lastAt = result, src.handler.generation, now()
	polled := r.polled
	r.polled = make(chan struct{})
	r.mu.Unlock()

	stale := r.stale
	log := src.handler.logger.WithLazy(r.field(), zap.String("cause", result.cause), zap.Int("status", result.status))
	switch live := result.good(); {
	case withdrawn:
		log.Warn("upstream withdrew the document; ending its streams")
		r.end(endWithdrawn)
	case !live && !known && result.passes(false):
		log.Debug("upstream has no document; its answer passes") // anybody may ask for what there is not
	case !live && !stale:
		r.stale = true
		log.Warn("upstream is stale; keeping the last good document, if any", r.reason(result.err))
	case live && stale:
		r.stale = false
		log.Info("upstream is live again")
	}
	close(polled)
	if turned != nil {
		close(turned)
	}
	if r.stale != stale { // last: it may take its time
		r.emit(ctx, src.handler, result)
	}
	return withdrawn
}

// rejected reports whether the upstream answers with what is no document, and has never
// answered otherwise: a page or a picture perhaps, which a long-poll had better be sent.
func (r *resource) rejected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.document == nil && r.last.kind == pollRejected
}

// upstream returns the status of the upstream as the route of h has found it, and what
// is closed when there is another one that a client with those wishes wants to be told;
// nil where the route of a newer handler is asked instead.
func (r *resource) upstream(h *Handler, n notices) (status upstreamStatus, next <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lastBy > h.generation {
		return upstreamStatus{}, nil
	}
	status, next = r.status, r.turned
	if r.lastBy < h.generation {
		status = newUpstreamStatus(r.poller.interval, time.Duration(h.Heartbeat))
	}
	if n == pollNotices {
		next = r.polled
	} else {
		status.Poll = nil
	}
	return status, next
}
