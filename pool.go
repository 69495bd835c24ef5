package pollsse

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// resourcePools holds a [resourcePool] for each handler that is loaded or whose
// streams are still draining, by [Handler.poolKey].
var resourcePools = caddy.NewUsagePool()

// resourcePool holds the resources of one handler, and of those that took its place
// in newer generations of the configuration.
type resourcePool struct {
	expiring sync.WaitGroup // the timers that close a resource; added to under the lock, while not over

	mu      sync.Mutex // guards all below, and the fields of resources that say so
	byKey   map[string]*resource
	streams int
	over    bool // destructed
}

func newResourcePool() (caddy.Destructor, error) {
	return &resourcePool{byKey: make(map[string]*resource)}, nil
}

// Destruct ends all resources. Nobody uses them any longer, since streams and
// handlers hold references to the pool, but some may linger.
func (p *resourcePool) Destruct() error {
	p.mu.Lock()
	p.over = true
	resources := p.byKey
	p.byKey = nil
	p.mu.Unlock()
	for _, r := range resources {
		if r.linger != nil {
			r.linger.Stop()
		}
		r.close()
	}
	p.expiring.Wait()
	return nil
}

// limit names what keeps a client out, "" where nothing does.
type limit string

const (
	limitPollers limit = "max_pollers"
	limitStreams limit = "max_streams"
	limitViews   limit = "max_views"
)

// join counts a stream and finds or makes the resource that it follows. The caller
// has to leave once.
func (p *resourcePool) join(h *Handler, t target) (*resource, limit) {
	key := t.key()
	p.mu.Lock()
	r, victim, over := p.joinLocked(h, t, key)
	p.mu.Unlock()
	if victim != nil {
		victim.close()
	}
	return r, over
}

func (p *resourcePool) joinLocked(h *Handler, t target, key string) (r, victim *resource, over limit) {
	if p.streams >= h.MaxStreams {
		return nil, nil, limitStreams
	}
	r = p.byKey[key]
	if r != nil && (r.isEnded() || r.rolledBack(h)) {
		r.end(endRollback)
		victim = p.removeLocked(r)
		r = nil
	}
	if r == nil {
		if len(p.byKey) >= h.MaxPollers {
			if victim = p.longestIdleLocked(); victim == nil {
				return nil, nil, limitPollers
			}
			p.removeLocked(victim)
			evictionsTotal.WithLabelValues(h.server, "resource").Inc()
		}
		r = newResource(h, t, key)
		p.byKey[key] = r
	}
	if r.linger != nil {
		r.linger.Stop()
		r.linger = nil
	}
	p.streams++
	r.streams[h]++
	return r, victim, ""
}

// longestIdleLocked returns the resource that has been without streams for longest.
func (p *resourcePool) longestIdleLocked() (idle *resource) {
	for _, r := range p.byKey {
		if len(r.streams) == 0 && (idle == nil || r.idleSince.Before(idle.idleSince)) {
			idle = r
		}
	}
	return idle
}

// removeLocked takes r out of the pool, and returns it where nobody uses it, so
// that the caller closes it when the lock is free.
func (p *resourcePool) removeLocked(r *resource) *resource {
	if p.byKey[r.key] == r {
		delete(p.byKey, r.key)
	}
	if r.linger != nil {
		r.linger.Stop()
		r.linger = nil
	}
	if len(r.streams) > 0 {
		return nil
	}
	return r
}

// leave undoes join. A resource that its last stream leaves goes on for a while,
// but ends at once where it never had a document or has none any longer.
func (p *resourcePool) leave(h *Handler, r *resource) {
	p.mu.Lock()
	p.streams--
	r.streams[h]--
	last := r.streams[h] == 0
	if last {
		delete(r.streams, h)
	}
	var unused *resource
	if len(r.streams) == 0 {
		if p.byKey[r.key] != r || r.isEnded() || !r.good.Load() {
			unused = p.removeLocked(r)
		} else {
			since := time.Now()
			r.idleSince = since
			r.linger = time.AfterFunc(time.Duration(h.Linger), func() { p.expire(r, since) })
		}
	}
	p.mu.Unlock()
	if unused != nil {
		unused.close()
	} else if last && h.isDraining() {
		r.unfollow(h.generation) // its route may not be asked any longer
	}
}

// expire ends a resource that has been without streams since then.
func (p *resourcePool) expire(r *resource, since time.Time) {
	p.mu.Lock()
	var unused *resource
	if !p.over && len(r.streams) == 0 && r.idleSince == since && p.byKey[r.key] == r {
		unused = p.removeLocked(r)
		p.expiring.Add(1)
	}
	p.mu.Unlock()
	if unused != nil {
		unused.close()
		p.expiring.Done()
	}
}

func (p *resourcePool) resources() []*resource {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.byKey))
}

// wakeStreams makes all streams look whether they are to end.
func (p *resourcePool) wakeStreams() {
	for _, r := range p.resources() {
		r.wakeStreams()
	}
}

// retire ends what a handler that is unloaded has begun. Resources that linger are
// not polled through its route any longer; those that it took over from one that is
// still loaded, because its configuration failed to start, end.
func (p *resourcePool) retire(retired *Handler) {
	p.mu.Lock()
	var idle []*resource
	for _, r := range p.byKey {
		if r.streams[retired] == 0 {
			idle = append(idle, r)
		}
		for h := range r.streams {
			if r.rolledBack(h) {
				r.end(endRollback)
			}
		}
	}
	p.mu.Unlock()
	for _, r := range idle {
		r.unfollow(retired.generation)
	}
}
