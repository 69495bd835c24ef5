//go:build linux

package main

import (
	"fmt"
	"net"
	"runtime/debug"
	"time"
)

// contender names a server under test.
type contender string

const (
	pollSSE   contender = "poll_sse"    // Caddy with the module
	bare      contender = "bare"        // Caddy with a handler that only writes and flushes
	hold      contender = "hold"        // Caddy with a handler that only waits
	content   contender = "content"     // Caddy with http.ServeContent
	broadcast contender = "broadcaster" // see [broadcaster]
	raw       contender = "floor"       // see [floor]
)

// setup says what a server serves.
type setup struct {
	Contender contender
	Upstream  string
	Interval  time.Duration
	Address   string // where Caddy listens
	Admin     string // the socket of Caddy's admin endpoint
}

// runServer is the role of the server under test.
func runServer() {
	for cmds := newCommands(); cmds.next(serverCommand); {
	}
}

func serverCommand(cmd command) (answer, error) {
	switch cmd.Do {
	case "serve":
		address, err := serve(*cmd.Setup)
		return answer{Address: address}, err
	case "gc":
		debug.FreeOSMemory()
		return answer{}, nil
	}
	return answer{}, fmt.Errorf("no such command")
}

// serve starts a contender and returns its address.
func serve(s setup) (address string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.Address = listener.Addr().String()
	switch s.Contender {
	case broadcast:
		serveBroadcaster(listener, s.Upstream, s.Interval)
	case raw:
		serveFloor(listener, s.Upstream, s.Interval)
	default:
		listener.Close() // it was a free port
		err = serveCaddy(s)
	}
	return s.Address, err
}
