package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// A client that is slow but not dead is served, one byte after another, both when it
// asks and when it reads; it delays nobody.
func TestSlowClients(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms"))
	live := c.open("h2", "/api/x", "")
	c.next(live)
	before := c.footprint()
	lasts := time.Now().Add(max(4*time.Second, *long))
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			conn := c.raw("")
			defer conn.Close()
			conn.SetDeadline(lasts.Add(2 * patience))
			request := rawStream("/api/x")
			pause := time.Until(lasts) / time.Duration(len(request)*(1+i%2)) // half of them ask faster
			for _, b := range []byte(request) {
				time.Sleep(pause)
				if _, err := conn.Write([]byte{b}); err != nil {
					t.Errorf("asking: %v", err)
					return
				}
			}
			e, err := sse.NewReader(dribble{c.body(conn)}).Next()
			if err != nil || !strings.Contains(e.Data, filler) {
				t.Errorf("reading: %.100s (%v)", e.Data, err)
			}
		})
	}
	slowest := time.Duration(0)
	for n := 1; time.Now().Before(lasts); n++ {
		changed := time.Now()
		u.set(numbered(n))
		if e := c.next(live); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d}`, n)) {
			t.Fatalf("somebody else is sent %.100s", e.Data)
		}
		slowest = max(slowest, time.Since(changed))
	}
	t.Logf("the live client waited %v at most", slowest)
	if slowest > 10*time.Second {
		t.Error("that is too long")
	}
	all.Wait()
	c.eventually("they have left", func() bool { return c.metric("caddy_poll_sse_streams") == 1 })
	c.returnsTo(before)
}

// body reads the head of an answer and returns its body.
func (c *caddy) body(conn net.Conn) io.Reader {
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
	if err != nil {
		c.t.Error(err)
		return strings.NewReader("")
	}
	return response.Body
}

// dribble reads one byte at a time, some hundred a second.
type dribble struct{ io.Reader }

func (d dribble) Read(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return d.Reader.Read(p[:1])
}

// Who never reads is cut some ten seconds after a chunk could not be written, over a
// connection that is full and over a window that never opens; the others are served.
func TestDeadReadersAreCut(t *testing.T) {
	const dead = 20
	large := strings.Repeat(filler, 2000) // more than a socket takes
	document := func(n int) string { return fmt.Sprintf(`{"n":%d,"filler":%q}`, n, large) }
	u := newUpstream(t, document(0))
	c := start(t, u.site("interval 20ms"))
	live := c.open("h1", "/api/x", "")
	c.next(live)
	before := c.footprint()
	began := time.Now()
	var conns []net.Conn
	for range dead {
		conns = append(conns, c.raw(rawStream("/api/x")))
	}
	c.dialH2(0).stream("/api/x")
	streams := func() int { return c.metric("caddy_poll_sse_streams") }
	c.eventually("all have been connected", func() bool { return c.metric(`caddy_poll_sse_resumes_total{outcome="new"}`) == dead+2 })
	connected, slowest := time.Since(began), time.Duration(0)
	var first, last time.Duration
	for n := 1; streams() > 1; n++ {
		if last = time.Since(began); last > 2*patience {
			t.Fatalf("%d are still there", streams()-1)
		}
		if first == 0 && streams() < dead+2 {
			first = last
		}
		changed := time.Now()
		u.set(document(n))
		if e := c.next(live); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d}`, n)) {
			t.Fatalf("the live client is sent %.100s", e.Data)
		}
		slowest = max(slowest, time.Since(changed))
	}
	if first == 0 { // all in the time of one event
		first = time.Since(began)
	}
	t.Logf("connected within %v, cut after %v to %v; the live client waited %v at most", connected, first, last, slowest)
	if first < 10*time.Second || slowest > 8*time.Second {
		t.Error("too early, or too slow")
	}
	if n := c.metric(`caddy_poll_sse_stream_ends_total{reason="write_failed"}`); n != dead+1 {
		t.Errorf("%d streams ended by a failed write", n)
	}
	for _, conn := range conns { // in the middle, so that nobody takes it for the end
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c.body(conn)); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a stream that was cut has ended with %v", err)
		}
		conn.Close()
	}
	c.returnsTo(before)
}
