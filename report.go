package pollsse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
)

// This file holds what metrics, logs and Caddy events are told of a resource.

// countAs counts the resource among those in a state.
func (r *resource) countAs(state string) {
	before := r.counted
	if r.counted = resourcesOpen.WithLabelValues(r.server, state); r.counted == before {
		return
	}
	r.counted.Inc()
	if before != nil {
		before.Dec()
	}
}

// count notes a poll in metrics and logs.
func (r *resource) count(h *Handler, result pollResult) {
	if result.good() {
		r.countAs(stateLive)
	} else {
		r.countAs(stateStale)
	}
	cause := ""
	if result.kind == pollRejected || result.kind == pollFailed {
		cause = result.cause
	}
	pollsTotal.WithLabelValues(h.server, string(result.kind), cause).Inc()
	pollDuration.WithLabelValues(h.server).Observe(result.duration.Seconds())
	if result.good() {
		pollingBytesTotal.WithLabelValues(h.server).Add(float64(r.open.Load() * int64(result.size)))
	}
	if result.cause == causeUnanswered && h.mayWarn(causeUnanswered) {
		h.logger.Warn("nothing behind poll_sse answers; is this path in the matcher of reverse_proxy too?", r.field())
	}
	h.logger.Debug("polled", r.field(), zap.String("result", string(result.kind)), zap.String("cause", result.cause), zap.Int("status", result.status),
		zap.Int("size", result.size), zap.Duration("duration", result.duration))
}

// reason says why a poll was not good. A handler's error may quote what was forwarded, so
// where anything was, logs have only of what kind it is.
func (r *resource) reason(err error) zap.Field {
	if err == nil || r.poller.target.isBare() {
		return zap.Error(err)
	}
	var own ownError
	var unresolved *net.DNSError
	var errno syscall.Errno
	switch {
	case errors.As(err, &own):
		return zap.Error(own)
	case errors.As(err, &unresolved):
		return zap.String("error", unresolved.Err)
	case errors.As(err, &errno):
		return zap.Error(errno)
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return zap.String("error", fmt.Sprintf("%T", err))
}

// mayWarn reports whether there may be a warning of what anybody can bring about: one a
// second of each kind.
func (h *Handler) mayWarn(kind string) bool {
	at := h.warnedAt[kind]
	now, last := time.Now().Unix(), at.Load()
	return now > last && at.CompareAndSwap(last, now)
}

// Caddy events, for the operator's handlers.
const (
	eventStale = "poll_sse.stale"
	eventLive  = "poll_sse.live"
)

// emit tells the handlers of Caddy events that the upstream of a document has turned. The
// next poll waits for them. Who ends the resource does not: a handler may change the
// configuration, and wait until that is done.
func (r *resource) emit(ctx context.Context, h *Handler, result pollResult) {
	if !r.good.Load() || h.emit == nil {
		return
	}
	emit, name := h.emit.Load(), eventStale
	if emit == nil { // the configuration is unloaded
		return
	}
	if !r.stale {
		if name = eventLive; !r.toldStale {
			return
		}
	}
	r.toldStale = r.stale
	told := make(chan struct{})
	go func() {
		defer close(told)
		defer func() {
			if v := recover(); v != nil { // in our goroutine it would end the process
				h.logger.Error("handler of an event panicked", zap.String("event", name), zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			}
		}()
		(*emit)(name, map[string]any{
			"host": r.poller.target.host, "path": r.poller.target.path(), "cause": result.cause, "status": result.status,
		})
	}()
	select {
	case <-told:
	case <-ctx.Done():
	}
}

// emitter tells the handlers of Caddy events of an event.
type emitter func(event string, data map[string]any)

// newEmitter returns where an emitter is until the configuration is unloaded, all of
// which it keeps alive. It is empty where none handles events.
func newEmitter(ctx caddy.Context) (*atomic.Pointer[emitter], error) {
	p := new(atomic.Pointer[emitter])
	app, err := ctx.AppIfConfigured("events")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return p, nil
	} else if err != nil {
		return nil, fmt.Errorf("getting events app: %w", err)
	}
	emit := emitter(func(event string, data map[string]any) { app.(*caddyevents.App).Emit(ctx, event, data) })
	p.Store(&emit)
	return p, nil
}

// field names the resource in logs: without its query, which may hold secrets.
func (r *resource) field() zap.Field {
	return zap.String("resource", r.poller.target.host+r.poller.target.path())
}
