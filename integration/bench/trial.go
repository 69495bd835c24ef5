//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"
)

// load is what a trial does to a server.
type load struct {
	contender contender
	streams   int
	stalled   int // of them, whose clients never read
	perConn   int // streams on a connection over HTTP/2; 0 for HTTP/1.1
	gzip      bool
	size      int // of an event
	rest      int // of the document, which does not change
	interval  time.Duration
	events    int           // that are measured
	lasts     time.Duration // instead: as many as are asked for in that time
}

// trial is a server under test with its upstream and its clients. Its first error is
// kept, and nothing is done after it.
type trial struct {
	load
	upstream *upstream
	server   *child
	clients  *child
	setup    setup
	err      error
}

// start starts the processes of a trial, in which nobody is connected yet.
func (m *machine) start(l load) *trial {
	t := &trial{load: l, setup: setup{Contender: l.contender, Interval: l.interval}}
	t.do("starting the upstream", func() (err error) {
		t.upstream, err = newUpstream(l.size, l.rest)
		return err
	})
	t.do("starting the clients", func() (err error) {
		t.clients, err = newChild(roleClients, m.otherCore, m.dir)
		return err
	})
	t.do("starting the server", func() (err error) {
		t.setup.Upstream = t.upstream.address()
		t.setup.Admin = filepath.Join(m.dir, t.setup.Upstream) // no other trial has that
		t.server, err = newChild(roleServer, m.serverCore, m.dir)
		return err
	})
	t.setup.Address = t.tell(t.server, command{Do: "serve", Setup: &t.setup}).Address
	return t
}

// close ends all processes, the one that polls first.
func (t *trial) close() {
	if t.server != nil {
		t.server.kill()
	}
	if t.clients != nil {
		t.clients.kill()
	}
	if t.upstream != nil {
		t.upstream.close()
	}
}

// do does one thing, unless one before has failed.
func (t *trial) do(what string, thing func() error) {
	if t.err != nil {
		return
	}
	if err := thing(); err != nil {
		t.err = fmt.Errorf("%s: %w", what, err)
	}
}

// tell has a child do something.
func (t *trial) tell(c *child, cmd command) (a answer) {
	t.do(cmd.Do, func() (err error) {
		a, err = c.call(cmd)
		return err
	})
	return a
}

// connect connects the clients, some after others or all at once.
func (t *trial) connect(atOnce bool) {
	t.tell(t.clients, command{Do: "connect", Connect: &connect{
		Address: t.setup.Address, Streams: t.streams, Stalled: t.stalled, PerConn: t.perConn, Gzip: t.gzip, AtOnce: atOnce,
	}})
}

// ask asks the clients for their "count" or "report".
func (t *trial) ask(what string) report {
	return t.tell(t.clients, command{Do: what}).Report
}

// settle waits until enough has come, or until nothing more comes for a while.
func (t *trial) settle(enough func(report) bool) {
	const quiet = 2 * time.Second
	var bytes int64
	for changed := time.Now(); t.err == nil && time.Since(changed) < quiet; time.Sleep(20 * time.Millisecond) {
		r := t.ask("count")
		if enough(r) {
			return
		}
		if r.Bytes != bytes {
			bytes, changed = r.Bytes, time.Now()
		}
	}
}

// settleDeliveries waits until so many more events have come to each client that reads,
// and returns how many deliveries that makes.
func (t *trial) settleDeliveries(before report, events int) int64 {
	expected := int64(events * (t.streams - t.stalled))
	t.settle(func(r report) bool { return r.Delivered+r.Replaced-before.Delivered >= expected })
	return expected
}

// run lets the upstream make the events that count, and returns how many.
func (t *trial) run() (events int) {
	events = t.events
	t.do("waiting for polls", func() error {
		if t.lasts > 0 {
			events = t.upstream.runFor(t.lasts)
			return nil
		}
		return t.upstream.run(events)
	})
	return events
}

// cpu returns the CPU time of the server.
func (t *trial) cpu() (used time.Duration) {
	t.do("reading the CPU clock", func() (err error) {
		used, err = cpuTime(t.server.pid())
		return err
	})
	return used
}

// memory returns a figure of the server's memory in KiB, such as VmRSS.
func (t *trial) memory(name string) (kib float64) {
	t.do("reading "+name, func() (err error) {
		kib, err = memory(t.server.pid(), name)
		return err
	})
	return kib
}

// leastMemory makes the server give back what memory it can, and returns its RSS in KiB.
func (t *trial) leastMemory() float64 {
	t.tell(t.server, command{Do: "gc"})
	return t.memory("VmRSS")
}

// terminate tells the server to end, and returns how long that took.
func (t *trial) terminate() time.Duration {
	began := time.Now()
	t.do("ending the server", func() error {
		if err := t.server.process.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-t.server.exited:
			return nil
		case <-time.After(patience):
			return errors.New("it goes on")
		}
	})
	return time.Since(began)
}

// reload has Caddy load another configuration.
func (t *trial) reload() {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", t.setup.Admin)
		},
	}}
	defer client.CloseIdleConnections()
	t.do("reloading", func() error {
		config := caddyConfig(t.setup, reloadedRetry)
		response, err := client.Post("http://localhost/load", "application/json", bytes.NewReader(config))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

// plainPoll returns the size of the answer to one GET that asks for no stream.
func (t *trial) plainPoll() (size int64) {
	t.do("polling", func() error {
		connection, err := t.get("application/json")
		if err != nil {
			return err
		}
		defer connection.Close()
		size, err = io.Copy(io.Discard, connection)
		return err
	})
	return size - int64(len("Connection: close\r\n"))
}

// firstClient opens a stream, reads some of it, and leaves.
func (t *trial) firstClient() {
	t.do("opening a first stream", func() error {
		connection, err := t.get("text/event-stream")
		if err != nil {
			return err
		}
		defer connection.Close()
		_, err = io.CopyN(io.Discard, connection, 100)
		return err
	})
}

// get asks for the document over a connection of its own.
func (t *trial) get(accept string) (net.Conn, error) {
	connection, err := net.Dial("tcp", t.setup.Address)
	if err != nil {
		return nil, err
	}
	connection.SetDeadline(time.Now().Add(patience))
	_, err = fmt.Fprintf(connection, "GET /doc HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nConnection: close\r\n\r\n", accept)
	return connection, err
}
