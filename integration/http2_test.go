package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

func (c *caddy) tlsHost() string { return "localhost:" + strconv.Itoa(c.port) }

// frames is a client over HTTP/2 that sends what frames it likes.
type frames struct {
	*http2.Framer
	t      *testing.T
	conn   net.Conn
	header bytes.Buffer
	hpack  *hpack.Encoder
	last   uint32 // stream
}

// dialH2 opens a connection whose streams have that initial window.
func (c *caddy) dialH2(window uint32) *frames {
	c.t.Helper()
	conn, err := tls.Dial("tcp", c.address(), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"h2"}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	f := &frames{Framer: http2.NewFramer(conn, conn), t: c.t, conn: conn}
	f.hpack = hpack.NewEncoder(&f.header)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	io.WriteString(conn, http2.ClientPreface)
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		c.t.Fatal(err)
	}
	return f
}

// stream asks for an event stream and returns its number.
func (f *frames) stream(path string) (uint32, error) {
	f.header.Reset()
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}, {"accept", "text/event-stream"}} {
		f.hpack.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	f.last += 1 + f.last%2 // those of clients are odd
	return f.last, f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.last, BlockFragment: f.header.Bytes(), EndStream: true, EndHeaders: true})
}

// body returns what the server sends of a stream, and counts the answers to pings. The
// connection's window is opened for all that comes, the stream's is not.
func (f *frames) body(stream uint32) (text io.Reader, pongs <-chan int) {
	r, w := io.Pipe()
	counts := make(chan int, 1)
	go func() {
		n := 0
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				w.CloseWithError(err)
				counts <- n
				return
			}
			switch frame := frame.(type) {
			case *http2.DataFrame:
				if frame.StreamID == stream {
					w.Write(frame.Data())
				}
			case *http2.PingFrame:
				n++
			}
		}
	}()
	f.t.Cleanup(func() { r.Close() })
	return r, counts
}

// Streams that are reset as soon as they are asked for, thousands on a connection, end,
// and nobody else notices.
func TestRapidReset(t *testing.T) {
	const resets = 5000
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms\nlinger 100ms"))
	live := c.open("h2", "/api/x", "")
	c.next(live)
	before, complaints := c.footprint(), c.complaints()
	// The proxy keeps a connection for each poll that was under way at the same time.
	before.goroutines, before.files = before.goroutines+2*30, before.files+30
	connections, began := 1, time.Now()
	f := c.dialH2(1 << 16)
	go io.Copy(io.Discard, f.conn)
	for i := range resets {
		stream, err := f.stream(fmt.Sprintf("/api/x?%d", i%5))
		if err == nil {
			err = f.WriteRSTStream(stream, http2.ErrCodeCancel)
		}
		if err != nil { // the server has had enough of it
			f.conn.Close()
			f = c.dialH2(1 << 16)
			go io.Copy(io.Discard, f.conn)
			connections++
		}
	}
	t.Logf("%d streams over %d connections in %v", resets, connections, time.Since(began))
	for n := 1; n < 5; n++ {
		u.set(numbered(n))
		if e := c.next(live); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d}`, n)) {
			t.Fatalf("somebody else is sent %.100s", e.Data)
		}
	}
	f.conn.Close()
	c.eventually("the streams have ended", func() bool { return c.metric("caddy_poll_sse_streams") == 1 })
	c.returnsTo(before)
	if n := c.complaints() - complaints; n != 0 {
		t.Errorf("%d lines above info", n)
	}
}

// A client may take back the window of a stream: it is sent nothing until it opens it
// again, and then what leads to the newest document. Any number of pings meanwhile
// changes nothing.
func TestShrinkingWindowAndPings(t *testing.T) {
	const pings = 5000
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms\nhistory 3"))
	f := c.dialH2(1 << 16)
	stream, err := f.stream("/api/x")
	if err != nil {
		t.Fatal(err)
	}
	text, pongs := f.body(stream)
	events := sse.NewReader(text)
	read := func() (sse.Event, error) {
		timer := time.AfterFunc(patience, func() { f.conn.Close() })
		defer timer.Stop()
		return events.Next()
	}
	e, err := read()
	if err != nil {
		t.Fatal(err)
	}
	doc := apply(t, nil, e.Data)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) // now below zero
	live := c.open("h1", "/api/x", "")
	c.next(live)
	const last = 10
	for n := 1; n <= last; n++ {
		u.set(numbered(n))
		c.next(live)
		for range pings / last {
			if err := f.WritePing(false, [8]byte{byte(n)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
	for numberIn(doc) != last {
		if e, err = read(); err != nil {
			t.Fatalf("after %d: %v", numberIn(doc), err)
		}
		doc = apply(t, doc, e.Data)
	}
	f.WriteRSTStream(stream, http2.ErrCodeCancel)
	c.eventually("the stream has ended", func() bool { return c.metric("caddy_poll_sse_streams") == 1 })
	f.conn.Close()
	if n := <-pongs; n > pings {
		t.Errorf("%d pings are answered", n)
	}
}

// A connection over HTTP/3 that vanishes without a word is noticed, and its streams end.
func TestVanishedConnection(t *testing.T) {
	const streams = 50
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms\nheartbeat 500ms"))
	live := c.open("h1", "/api/x", "")
	c.next(live)
	packets, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: packets}
	server, err := net.ResolveUDPAddr("udp", c.address())
	if err != nil {
		t.Fatal(err)
	}
	h3 := &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		QUICConfig:      &quic.Config{MaxIdleTimeout: 5 * time.Second},
		Dial: func(ctx context.Context, _ string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return transport.DialEarly(ctx, server, t, q)
		},
	}
	t.Cleanup(func() { h3.Close(); transport.Close() })
	var gone []*connection
	for range streams {
		s, err := connectTo(&http.Client{Transport: h3}, "https://"+c.tlsHost()+"/api/x", "")
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		c.next(s)
		gone = append(gone, s)
	}
	packets.Close()
	vanished := time.Now()
	for n := 1; c.metric("caddy_poll_sse_streams") > 1; n++ {
		u.set(numbered(n))
		if e := c.next(live); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d}`, n)) {
			t.Fatalf("somebody else is sent %.100s", e.Data)
		}
		if time.Since(vanished) > patience {
			t.Fatalf("%d streams are open", c.metric("caddy_poll_sse_streams"))
		}
	}
	t.Logf("%d streams ended after %v", streams, time.Since(vanished))
	for _, s := range gone {
		if _, err := s.Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("a stream over a connection that vanished ends with %v", err)
		}
	}
}
