package pollsse

import (
	"context"
	"time"
)

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
		held := r.document != nil && r.confirmed >= generation && by >= generation // settled too
		unsure := r.document != nil && result.withdrawn()                          // until it is confirmed
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
