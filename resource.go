package pollsse

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
)

// resource is one polled document, shared by all clients whose requests are alike
// and by all generations of the configuration. Its goroutine polls and feeds the
// views; [resource.close] ends it.
type resource struct {
	key     string
	poller  poller
	logs    map[string]eventLogConfig // by format
	cancel  context.CancelFunc
	stopped chan struct{} // closed when the goroutine has ended
	ended   chan struct{} // closed by end
	end     func()        // ends the streams, which come back to another resource
	wake    chan struct{} // holds one token when there is a new source
	afresh  bool          // the next document is sent whole: comparing it panicked

	good   atomic.Bool             // there is a document
	newest atomic.Pointer[Handler] // the newest one that gave a source

	// Fields of the [resourcePool], guarded by its lock.
	streams   map[*Handler]int
	idleSince time.Time
	linger    *time.Timer

	mu        sync.Mutex           // guards all below
	source    *source              // nil while nobody's route may be polled
	views     map[string]*eventLog // by format
	document  *jsondiff.Document   // of the last good poll, nil before the first
	polledBy  uint64               // the generation that polled the document first
	confirmed uint64               // the newest generation that polled it
	last      pollResult           // of the newest poll
	lastBy    uint64               // its generation, 0 before the first
	polled    chan struct{}        // closed after the next poll
}

// newResource returns a resource that polls as soon as it has a source.
func newResource(h *Handler, t target, key string) *resource {
	// Polls outlive the request that began them and the configuration that it came
	// with, whose contexts both end too early; the pool ends this one.
	ctx, cancel := context.WithCancel(context.Background())
	r := &resource{
		key: key,
		poller: poller{
			target:   t,
			interval: time.Duration(h.Interval),
			timeout:  time.Duration(h.Timeout),
			maxBody:  h.MaxBody,
		},
		logs:    h.eventLogs(),
		cancel:  cancel,
		stopped: make(chan struct{}),
		ended:   make(chan struct{}),
		streams: make(map[*Handler]int),
		wake:    make(chan struct{}, 1),
		views:   make(map[string]*eventLog),
		polled:  make(chan struct{}),
	}
	r.end = sync.OnceFunc(func() { close(r.ended) })
	for _, k := range h.Key {
		r.poller.arrays = append(r.poller.arrays, jsondiff.Key{Pointer: k.Pointer, Member: k.Member})
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
		select {
		case r.wake <- struct{}{}:
		default:
		}
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
func (r *resource) isEnded() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// view returns the log that streams of that format read.
func (r *resource) view(format string) *eventLog {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.views[format]
	if l == nil {
		l = newEventLog(r.logs[format])
		if r.document != nil {
			l.append(r.document.Bytes(), nil, r.polledBy)
			l.confirm(r.confirmed)
		}
		r.views[format] = l
	}
	return l
}

// run polls until ctx ends or the upstream withdraws the document.
func (r *resource) run(ctx context.Context) {
	defer close(r.stopped)
	timer := time.NewTimer(forever) // the first source wakes us
	defer timer.Stop()
	var notBefore time.Time
	var asked uint64 // the generation whose source was polled last
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ended:
			return
		case <-r.wake: // a new source is asked at once, unless the upstream forbids it
			if src := r.currentSource(); src != nil && src.handler.generation != asked {
				timer.Reset(time.Until(notBefore))
			}
			continue
		case <-timer.C:
		}
		src := r.currentSource()
		if src == nil {
			asked = 0 // whoever comes wakes us
			continue
		}
		asked = src.handler.generation
		start := time.Now()
		result := r.poll(ctx, src)
		if ctx.Err() != nil {
			return
		}
		if r.settle(src, result) {
			return
		}
		var at time.Time
		at, notBefore = r.poller.next(start, result)
		if notBefore.After(at) {
			at = notBefore
		}
		timer.Reset(time.Until(at))
	}
}

// poll polls and publishes what is new.
func (r *resource) poll(ctx context.Context, src *source) (result pollResult) {
	defer func() {
		// A fault of ours must not end the web server around us.
		if v := recover(); v != nil {
			r.poller.forget()
			r.afresh = true
			src.handler.logger.Error("poll panicked", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			result = pollResult{kind: pollFailed, cause: "panic", err: fmt.Errorf("poll panicked: %v", v)}
		}
	}()
	began := time.Now()
	r.mu.Lock()
	held := r.document
	r.mu.Unlock()
	if r.afresh {
		held = nil
	}
	result = r.poller.poll(ctx, src, held)
	if result.good() {
		r.afresh = false
		r.publish(result, src.handler.generation)
	}
	pollsTotal.WithLabelValues(string(result.kind)).Inc()
	src.handler.logger.Debug("polled", r.field(), zap.String("result", string(result.kind)), zap.Int("status", result.status), zap.Duration("duration", time.Since(began)))
	return result
}

// publish appends the document of a good poll to all views where its value is new.
func (r *resource) publish(result pollResult, generation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if result.document != nil {
		r.document = result.document
	}
	if result.changed {
		r.polledBy = generation
		r.good.Store(true)
	}
	for _, l := range r.views {
		if result.changed {
			l.append(r.document.Bytes(), result.patch, generation)
		} else {
			l.confirm(generation)
		}
	}
	r.confirmed = max(r.confirmed, generation)
}

// settle notes a result, tells those who wait for it, and logs where the upstream
// begins or ceases to fail. It reports whether the document is withdrawn.
func (r *resource) settle(src *source, result pollResult) (withdrawn bool) {
	result.document, result.patch = nil, nil // are published
	r.mu.Lock()
	before, known := r.last, r.lastBy != 0
	withdrawn = result.withdrawn() && before.withdrawn() && r.lastBy == src.handler.generation
	r.last, r.lastBy = result, src.handler.generation
	polled := r.polled
	r.polled = make(chan struct{})
	r.mu.Unlock()

	log := src.handler.logger.WithLazy(r.field(), zap.String("cause", result.cause), zap.Int("status", result.status))
	switch live, wasLive := result.good(), before.good(); {
	case withdrawn:
		log.Warn("upstream withdrew the document; ending its streams")
		r.end()
	case !live && !known && result.passes(false):
		log.Debug("upstream has no document; its answer passes") // anybody may ask for what there is not
	case !live && (wasLive || !known):
		log.Warn("upstream is stale; keeping the last good document, if any", zap.Error(result.err))
	case live && !wasLive && known:
		log.Info("upstream is live again")
	}
	close(polled)
	return withdrawn
}

// field names the resource in logs: without its query, which may hold secrets.
func (r *resource) field() zap.Field {
	path, _, _ := strings.Cut(r.poller.target.originalURI, "?")
	return zap.String("resource", r.poller.target.host+path)
}

// firstPollTimeout is how long a client waits to learn whether there is a document.
const firstPollTimeout = 5 * time.Second

// verdict says what becomes of a client that connects.
type verdict int

const (
	verdictServe verdict = iota // its stream opens
	verdictPass                 // its request passes to the next handler
	verdictLater                // it shall come back: nobody can tell now
	verdictEnded                // the resource is no more
	verdictGone                 // the client is
)

// firstPoll decides about a client of h: at once where a document is held that the
// route of h has confirmed, else when a poll of that route has ended, but never later
// than firstPollTimeout.
func (r *resource) firstPoll(ctx context.Context, h *Handler, resuming bool) verdict {
	generation := h.generation
	timeout := time.NewTimer(firstPollTimeout)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		result, by, polled := r.last, r.lastBy, r.polled
		held := r.document != nil && r.confirmed >= generation
		unsure := r.document != nil && result.withdrawn() // until it is confirmed
		superseded := r.source == nil || r.source.handler.generation > generation
		r.mu.Unlock()
		switch {
		case superseded:
			return verdictLater
		case held && !unsure:
			return verdictServe
		case by == generation && !unsure && result.passes(resuming):
			return verdictPass
		case by == generation && !unsure:
			return verdictServe
		}
		select {
		case <-polled:
		case <-timeout.C:
			if unsure {
				return verdictLater
			}
			return verdictServe
		case <-r.ended:
			return verdictEnded
		case <-h.draining:
			return verdictLater
		case <-ctx.Done():
			return verdictGone
		}
	}
}
