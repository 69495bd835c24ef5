package pollsse

import (
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// resourcePools holds a [resourcePool] for each handler that is loaded or whose
// streams are still draining, by [Handler.key].
var resourcePools = caddy.NewUsagePool()

// resourcePool holds the resources of one handler, and of those that took its place
// in newer generations of the configuration.
type resourcePool struct {
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
		r.linger.Stop()
		r.close()
	}
	return nil
}

// limit names what keeps a client out, "" where nothing does.
type limit string

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
		return nil, nil, "max_streams"
	}
	r = p.byKey[key]
	if r != nil && r.isEnded() {
		victim = p.removeLocked(r)
		r = nil
	}
	if r == nil {
		if len(p.byKey) >= h.MaxPollers {
			if victim = p.longestIdleLocked(); victim == nil {
				return nil, nil, "max_pollers"
			}
			p.removeLocked(victim)
		}
		r = newResource(h, t, key)
		p.byKey[key] = r
	} else if r.linger != nil {
		r.linger.Stop()
		r.linger = nil
	}
	p.streams++
	r.users++
	return r, victim, ""
}

// longestIdleLocked returns the resource that has been without streams for longest.
func (p *resourcePool) longestIdleLocked() (idle *resource) {
	for _, r := range p.byKey {
		if r.users == 0 && (idle == nil || r.idleSince.Before(idle.idleSince)) {
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
	if r.users > 0 {
		return nil
	}
	return r
}

// leave undoes join. A resource that its last stream leaves goes on for a while,
// but ends at once where it never had a document or has none any longer.
func (p *resourcePool) leave(h *Handler, r *resource) {
	p.mu.Lock()
	p.streams--
	r.users--
	var unused *resource
	if r.users == 0 {
		if p.byKey[r.key] != r || r.isEnded() || !r.hasDocument() {
			unused = p.removeLocked(r)
		} else {
			r.idleSince = time.Now()
			r.linger = time.AfterFunc(time.Duration(h.Linger), func() { p.expire(r) })
			if h.isDraining() { // its route may not be asked any longer
				r.unfollow(h.generation)
			}
		}
	}
	p.mu.Unlock()
	if unused != nil {
		unused.close()
	}
}

// expire ends a resource that has lingered, unless a stream came back.
func (p *resourcePool) expire(r *resource) {
	p.mu.Lock()
	var unused *resource
	if !p.over && r.users == 0 && p.byKey[r.key] == r {
		unused = p.removeLocked(r)
	}
	p.mu.Unlock()
	if unused != nil {
		unused.close()
	}
}

// retire stops the polls of lingering resources through the routes of a generation
// that is no longer loaded.
func (p *resourcePool) retire(generation uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.byKey {
		if r.users == 0 {
			r.unfollow(generation)
		}
	}
}
