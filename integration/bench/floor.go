//go:build linux

package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// floor is the least that sending events costs: one write(2) for each client, in one
// loop, and no HTTP but its bytes.
type floor struct {
	mu      sync.Mutex // guards clients
	clients []rawClient
}

// rawClient is a connection whose descriptor is written to directly.
type rawClient struct {
	net.Conn // keeps the descriptor open
	fd       int
}

const floorHeader = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n" +
	"Cache-Control: no-store, no-transform\r\nTransfer-Encoding: chunked\r\n\r\n"

// serveFloor serves until the process ends.
func serveFloor(listener net.Listener, upstream string, interval time.Duration) {
	f := new(floor)
	go f.accept(listener)
	go watch(upstream, interval, f.send)
}

// accept takes one client after the other.
func (f *floor) accept(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		check(err)
		client, err := welcome(connection)
		if err != nil {
			connection.Close()
			continue
		}
		f.mu.Lock()
		f.clients = append(f.clients, client)
		f.mu.Unlock()
	}
}

// welcome reads a request and answers with a header.
func welcome(connection net.Conn) (rawClient, error) {
	if _, err := http.ReadRequest(bufio.NewReader(connection)); err != nil {
		return rawClient{}, err
	}
	raw, err := connection.(*net.TCPConn).SyscallConn()
	if err != nil {
		return rawClient{}, err
	}
	client := rawClient{Conn: connection}
	if err := raw.Control(func(fd uintptr) { client.fd = int(fd) }); err != nil {
		return rawClient{}, err
	}
	_, err = connection.Write([]byte(floorHeader))
	return client, err
}

// send writes an event to all clients. One that cannot take it at once is cut off.
func (f *floor) send(event []byte) {
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := f.clients[:0]
	for _, client := range f.clients {
		if n, err := unix.Write(client.fd, chunk); err != nil || n < len(chunk) {
			client.Close()
			continue
		}
		kept = append(kept, client)
	}
	f.clients = kept
}
