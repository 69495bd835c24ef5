package integration

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// line is how clients reach the server: over one connection at a time, more or less,
// which can be cut.
type line struct {
	protocol string
	base     string
	client   *http.Client

	mu    sync.Mutex // guards conns
	conns map[*lineConn]struct{}
}

// lineConn is a connection, which ends in good order or not.
type lineConn struct {
	net.Conn // nil over HTTP/3
	line     *line
	close    func() error
	cut      func() error
}

// Close ends a connection over TCP that the client has done with.
func (c *lineConn) Close() error {
	c.line.remove(c)
	return c.Conn.Close()
}

func (s *soak) newLine(protocol string) *line {
	l := &line{protocol: protocol, conns: make(map[*lineConn]struct{})}
	_, l.base = s.client(protocol)
	switch protocol {
	case "h1":
		l.client = unixClient(filepath.Join(s.dir, "h1"))
	case "h1+TLS", "h2":
		l.client = s.newTLS(protocol == "h2")
	case "h3":
		l.client = &http.Client{Transport: &h3Transport{line: l, address: s.address()}}
		return l
	}
	transport := l.client.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return l.add(&lineConn{Conn: conn, line: l, close: conn.Close, cut: func() error {
			if conn, ok := conn.(*net.TCPConn); ok {
				conn.SetLinger(0) // by a reset
			}
			return conn.Close()
		}}), nil
	}
	return l
}

func (l *line) add(conn *lineConn) *lineConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn] = struct{}{}
	return conn
}

func (l *line) remove(conn *lineConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// cut ends the connections as a fault on the way would.
func (l *line) cut() {
	for _, conn := range l.take() {
		conn.cut()
	}
}

// close ends them in good order.
func (l *line) close() {
	l.client.CloseIdleConnections()
	for _, conn := range l.take() {
		conn.close()
	}
}

func (l *line) take() []*lineConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	conns := slices.Collect(maps.Keys(l.conns))
	clear(l.conns)
	return conns
}

// h3Transport makes requests over one connection until one of them fails, and then over
// another. That of quic-go forgets the other too, when the next one fails.
type h3Transport struct {
	line    *line
	address string

	mu   sync.Mutex // held while a connection is made
	conn *http3.ClientConn
}

func (t *h3Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	var err error
	if t.conn == nil {
		t.conn, err = t.dial(r.Context())
	}
	conn := t.conn
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	response, err := conn.RoundTrip(r)
	if err != nil && r.Context().Err() == nil {
		t.mu.Lock()
		if t.conn == conn {
			t.conn = nil
		}
		t.mu.Unlock()
	}
	return response, err
}

// dial makes a connection with a socket of its own.
func (t *h3Transport) dial(ctx context.Context) (*http3.ClientConn, error) {
	to, err := net.ResolveUDPAddr("udp", t.address)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: socket}
	// There are no pings, for heartbeats will do. What one client does not read holds up
	// the others no more than in a browser.
	conn, err := transport.DialEarly(ctx, to, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{http3.NextProtoH3}},
		&quic.Config{MaxIncomingStreams: -1, InitialConnectionReceiveWindow: 15 << 20})
	if err != nil {
		socket.Close()
		return nil, err
	}
	c := t.line.add(&lineConn{line: t.line, close: func() error { return conn.CloseWithError(0, "") }, cut: socket.Close}) // without a word
	context.AfterFunc(conn.Context(), func() {
		t.line.remove(c)
		transport.Close()
		socket.Close()
	})
	return (&http3.Transport{DisableCompression: true}).NewClientConn(conn), nil
}
