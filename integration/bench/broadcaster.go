//go:build linux

package main

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// broadcaster is what one would write by hand: a server of net/http and a channel for
// each client. A client whose channel is full misses the event.
type broadcaster struct {
	mu      sync.Mutex // guards clients
	clients map[chan []byte]struct{}
}

// serveBroadcaster serves until the process ends.
func serveBroadcaster(listener net.Listener, upstream string, interval time.Duration) {
	b := &broadcaster{clients: make(map[chan []byte]struct{})}
	go http.Serve(listener, b)
	go watch(upstream, interval, b.send)
}

func (b *broadcaster) send(event []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for client := range b.clients {
		select {
		case client <- event:
		default:
		}
	}
}

func (b *broadcaster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	events := make(chan []byte, 16)
	b.add(events)
	defer b.remove(events)
	controller := beginStream(w)
	for {
		select {
		case event := <-events:
			w.Write(event)
			controller.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (b *broadcaster) add(client chan []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clients[client] = struct{}{}
}

func (b *broadcaster) remove(client chan []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.clients, client)
}

// beginStream sends the header of an event stream.
func beginStream(w http.ResponseWriter) *http.ResponseController {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store, no-transform")
	w.WriteHeader(http.StatusOK)
	controller := http.NewResponseController(w)
	controller.Flush()
	return controller
}
