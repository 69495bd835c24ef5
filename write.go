package pollsse

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// pass lets the next handler answer r. What it answers to a GET depends on whether a
// stream was asked for, which caches have to know (RFC 9110 §12.5.5). Where r is a
// write and succeeds, what it may have written to is polled at once.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch r.Method {
	case http.MethodGet:
		w.Header().Add("Vary", "Accept")
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return passWrite(w, r, next)
	}
	return next.ServeHTTP(w, r)
}

func passWrite(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	host, path := strings.ToLower(r.Host), originalURL(r).EscapedPath() // before the route changes them
	response := &writeResponse{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	response.succeeded = func() { pokeWritten(host, path) }
	err := next.ServeHTTP(response, r)
	if err == nil {
		response.answer(http.StatusOK) // where nothing was written
	}
	return err
}

// writeResponse calls succeeded when a status that is no error (RFC 9111 §4.4) is about
// to be written.
type writeResponse struct {
	*caddyhttp.ResponseWriterWrapper
	succeeded func()
	answered  bool
}

func (w *writeResponse) answer(status int) {
	if w.answered || status < 200 { // an informational answer precedes the final one
		return
	}
	w.answered = true
	if status < 400 {
		w.succeeded()
	}
}

func (w *writeResponse) WriteHeader(status int) {
	w.answer(status)
	w.ResponseWriterWrapper.WriteHeader(status)
}

// pokeWritten makes all resources of that host poll whose path is the given one or
// above it.
func pokeWritten(host, path string) {
	resourcePools.Range(func(_, pool any) bool {
		pool.(*resourcePool).pokeWritten(host, path)
		return true
	})
}

func (p *resourcePool) pokeWritten(host, path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.byKey {
		if t := &r.poller.target; t.host == host && atOrAbove(t.path(), path) {
			r.poke()
		}
	}
}

// atOrAbove reports whether one path is the other, or leads to it.
func atOrAbove(above, path string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(above, "/"))
	return ok && (rest == "" || rest[0] == '/')
}
