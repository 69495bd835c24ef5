//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// connect says how clients connect.
type connect struct {
	Address string
	Streams int
	Stalled int  // of them, whose clients never read
	PerConn int  // streams on a connection over HTTP/2; 0 for HTTP/1.1
	Gzip    bool // is accepted
	AtOnce  bool // or a wave that waits for its answers after the other
}

// clients are all browsers in one thread: sockets that are read when they are ready,
// into one buffer, so that they cost little beside the server.
type clients struct {
	connect
	tally
	epoll       int
	connections []connection
	buf         []byte // of which reads leave maxHead bytes free
	ready       []unix.EpollEvent
	gzipped     int   // responses
	requested   int64 // when, in Unix nanoseconds
	lastRead    int64 // likewise
}

// connection is one socket.
type connection struct {
	fd      int
	stalled bool
	streams []stream
	h2      *frames   // nil over HTTP/1.1
	gzip    *gzipBody // nil where nothing is compressed
}

// commandIndex stands for stdin among the indices of connections.
const commandIndex = -1

// runClients is the role of the clients.
func runClients() {
	runtime.LockOSThread()
	epoll, err := unix.EpollCreate1(0)
	check(err)
	c := &clients{epoll: epoll, buf: make([]byte, maxHead+256<<10), ready: make([]unix.EpollEvent, 1024)}
	c.register(0, commandIndex)
	for cmds := newCommands(); ; {
		if c.pump(-1) && !cmds.next(c.do) {
			return
		}
	}
}

func (c *clients) do(cmd command) (answer, error) {
	switch cmd.Do {
	case "connect":
		c.connect = *cmd.Connect
		return answer{}, c.open()
	case "reset":
		newest := int64(0)
		for s := range c.streams() {
			newest = max(newest, s.last)
		}
		c.reset(time.Now().UnixNano(), newest)
		return answer{}, nil
	case "count":
		r := c.count()
		r.Ends = nil // many
		return answer{Report: r}, nil
	case "report":
		r, err := c.report()
		return answer{Report: r}, err
	}
	return answer{}, errors.New("no such command")
}

func (c *clients) register(fd int, index int32) {
	check(unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: index}))
}

// streams returns all there are.
func (c *clients) streams() iter.Seq[*stream] {
	return func(yield func(*stream) bool) {
		for i := range c.connections {
			for j := range c.connections[i].streams {
				if !yield(&c.connections[i].streams[j]) {
					return
				}
			}
		}
	}
}

// open connects all clients, in waves.
func (c *clients) open() error {
	perConn := max(1, c.PerConn)
	c.connections = make([]connection, (c.Streams+perConn-1)/perConn)
	wave := 256
	if c.AtOnce {
		wave = len(c.connections)
	}
	expected := 0
	for from := 0; from < len(c.connections); from += wave {
		to := min(from+wave, len(c.connections))
		for i := from; i < to; i++ {
			if err := c.openOne(i, min(perConn, c.Streams-i*perConn)); err != nil {
				return err
			}
		}
		c.requested = time.Now().UnixNano()
		for i := from; i < to; i++ {
			k := &c.connections[i]
			c.ask(k)
			if !k.stalled {
				expected += len(k.streams)
			}
		}
		if err := c.awaitAnswers(expected); err != nil {
			return err
		}
	}
	return nil
}

// openOne connects a client, which reads unless it is among the stalled.
func (c *clients) openOne(i, streams int) (err error) {
	k := &c.connections[i]
	k.stalled = (i+1)*c.Stalled/len(c.connections) > i*c.Stalled/len(c.connections)
	k.streams = make([]stream, streams)
	for j := range k.streams {
		k.streams[j].last = -1
	}
	if c.PerConn > 0 {
		k.h2 = new(frames)
	}
	if k.fd, err = dial(c.Address, i, k.stalled); err == nil && !k.stalled {
		c.register(k.fd, int32(i))
	}
	return err
}

// dial connects from one of several addresses, so that ports last.
func dial(address string, i int, stalled bool) (fd int, err error) {
	to, err := netip.ParseAddrPort(address)
	check(err)
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(err)
	check(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
	if stalled { // small buffers fill soon, on both sides
		check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
		check(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 536))
	}
	check(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + i%8)}}))
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return 0, fmt.Errorf("dialing %s: %w", address, err)
	}
	return fd, unix.SetNonblock(fd, true)
}

// ask sends the requests of a connection. What a server does not take ends the stream,
// which is noticed when it is read.
func (c *clients) ask(k *connection) {
	request := []byte("GET /doc HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
	switch {
	case k.h2 != nil:
		request = openingFrames(len(k.streams))
	case c.Gzip:
		request = append(request[:len(request)-2], "Accept-Encoding: gzip\r\n\r\n"...)
	}
	unix.Write(k.fd, request)
}

// awaitAnswers reads until so many streams have their header.
func (c *clients) awaitAnswers(expected int) error {
	for deadline := time.Now().Add(patience / 2); ; c.pump(10) {
		r := c.count()
		switch {
		case r.Ended > 0:
			return errors.New("the server refuses or ends streams")
		case r.Answered >= expected:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("only %d of %d streams are answered", r.Answered, expected)
		}
	}
}

// pump reads from all sockets that are ready, after waiting for one so many
// milliseconds, and reports whether there is a command to read too.
func (c *clients) pump(wait int) (command bool) {
	n, err := unix.EpollWait(c.epoll, c.ready, wait)
	if err != unix.EINTR {
		check(err)
	}
	for _, e := range c.ready[:max(n, 0)] {
		if e.Fd == commandIndex {
			command = true
		} else {
			c.read(&c.connections[e.Fd])
		}
	}
	return command
}

func (c *clients) read(k *connection) {
	n, err := unix.Read(k.fd, c.buf[maxHead:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0:
		unix.Close(k.fd) // which also leaves the epoll
		for i := range k.streams {
			k.streams[i].end(false)
		}
		return
	}
	now := time.Now().UnixNano()
	c.bytes += int64(n)
	c.lastRead = now
	if k.h2 != nil {
		k.h2.read(c, k, maxHead, maxHead+n, now)
	} else {
		c.readH1(k, maxHead, maxHead+n, now)
	}
}

func (c *clients) readH1(k *connection, from, to int, now int64) {
	s := &k.streams[0]
	s.bytes += int64(to - from)
	if s.answer == unanswered {
		body, gzipped := s.begin(c.buf[from:to])
		from += body
		if gzipped {
			k.gzip = &gzipBody{kept: c.gzipped < sampled}
			c.gzipped++
		}
	}
	if k.gzip != nil {
		k.gzip.read(&c.tally, c.buf[from:to], now)
	} else {
		s.scan(&c.tally, c.buf, from, to, now)
	}
	if bytes.HasSuffix(c.buf[:to], lastChunk) {
		s.end(true)
	}
}

// count reports what costs little to know.
func (c *clients) count() report {
	r := report{
		Delivered: c.delivered, Replaced: c.replaced, Bytes: c.bytes, LeastBytes: -1,
		Gzipped: c.gzipped, Requested: c.requested, LastRead: c.lastRead,
	}
	for s := range c.streams() {
		r.add(s)
	}
	return r
}

// report says all about the deliveries since the last reset.
func (c *clients) report() (r report, err error) {
	r = c.count()
	c.summarize(&r)
	if c.gzipped > 0 {
		err = c.summarizeGzip(&r)
	}
	return r, err
}
