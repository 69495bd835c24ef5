//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/pollsse/caddy-poll-sse"
)

func init() { caddy.RegisterModule(new(peer)) }

// serveCaddy runs Caddy until the process is told to end.
func serveCaddy(s setup) error {
	if s.Contender == bare {
		go watch(s.Upstream, s.Interval, extend)
	}
	caddy.TrapSignals()
	return caddy.Load(caddyConfig(s, firstRetry), false)
}

// The longest that poll_sse tells clients to wait, at first and after a reload, which
// has to change something.
const (
	firstRetry    = 4 * time.Second
	reloadedRetry = 5 * time.Second
)

// caddyConfig returns the configuration of a site; retry is the longest that poll_sse
// tells clients.
func caddyConfig(s setup, retry time.Duration) []byte {
	handlers := fmt.Sprintf(`{"handler": "bench_peer", "contender": %q}`, s.Contender)
	if s.Contender == pollSSE {
		handlers = fmt.Sprintf(`{"handler": "poll_sse", "interval": %d, "retry": {"min": %d, "max": %d}},
			{"handler": "reverse_proxy", "upstreams": [{"dial": %q}]}`, s.Interval, time.Second, retry, s.Upstream)
	}
	return fmt.Appendf(nil, `{
		"admin": {"listen": "unix/%s", "config": {"persist": false}},
		"logging": {"logs": {"default": {"level": "ERROR"}}},
		"apps": {"http": {"servers": {"bench": {
			"listen": [%q],
			"protocols": ["h1", "h2c"],
			"automatic_https": {"disable": true},
			"routes": [{"handle": [%s]}]
		}}}}
	}`, s.Admin, s.Address, handlers)
}

// link is an event in a chain that has no end yet.
type link struct {
	event    []byte
	next     *link
	followed chan struct{} // closed when there is a next
}

// newest is the last link of the chain that [writeEvents] follows.
var newest atomic.Pointer[link]

func init() { newest.Store(&link{followed: make(chan struct{})}) }

// extend appends an event to the chain. Only one goroutine may.
func extend(event []byte) {
	last, next := newest.Load(), &link{event: event, followed: make(chan struct{})}
	last.next = next
	newest.Store(next)
	close(last.followed)
}

// peer is the handler of the contenders that are Caddy without poll_sse.
type peer struct {
	Contender contender `json:"contender"`

	document []byte // of content
}

// CaddyModule returns the Caddy module information.
func (*peer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_peer", New: func() caddy.Module { return new(peer) }}
}

// Provision makes the document.
func (p *peer) Provision(caddy.Context) error {
	if p.Contender == content {
		p.document = largeDocument()
	}
	return nil
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	switch p.Contender {
	case bare:
		writeEvents(w, r)
	case hold:
		beginStream(w)
		<-r.Context().Done()
	case content:
		http.ServeContent(w, r, "document.json", time.Time{}, bytes.NewReader(p.document))
	}
	return nil
}

// writeEvents is the least that a stream in Caddy can be.
func writeEvents(w http.ResponseWriter, r *http.Request) {
	at := newest.Load()
	controller := beginStream(w)
	for {
		select {
		case <-at.followed:
			at = at.next
			w.Write(at.event)
			controller.Flush()
		case <-r.Context().Done():
			return
		}
	}
}
