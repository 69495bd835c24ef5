package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestStopWithOpenStreams(t *testing.T) {
	u := newUpstream(t, numbered(0))
	for _, protocol := range append(protocols, "all") {
		t.Run(protocol, func(t *testing.T) {
			c := start(t, u.site("drain 1h")) // which is for reloads, not for this
			var streams []*connection
			for i := range 200 {
				p := protocol
				if p == "all" {
					p = protocols[i%3]
				}
				if p == "h3" && i%90 == 0 {
					c.h3 = c.newH3() // a connection takes no more than 100 streams
				}
				streams = append(streams, c.open(p, "/api/x", "", "Accept-Encoding", []string{"gzip", "identity"}[i/3%2]))
			}
			for _, s := range streams {
				c.next(s)
			}
			ends := make(chan error, len(streams))
			for _, s := range streams {
				go func() {
					_, err := s.Next()
					ends <- err
				}()
			}
			// Nobody is cut because the machine stands still meanwhile.
			time.AfterFunc(5*time.Millisecond, func() {
				c.process.Process.Signal(syscall.SIGSTOP)
				time.Sleep(400 * time.Millisecond)
				c.process.Process.Signal(syscall.SIGCONT)
			})
			c.endsSoon()
			unclean := 0
			for range streams {
				if err := <-ends; err != io.EOF {
					unclean++
					t.Logf("a stream ended with %v", err)
				}
			}
			if unclean > 0 {
				t.Errorf("%d of %d streams did not end cleanly", unclean, len(streams))
			}
		})
	}
}

// Neither a client that does not read nor one that still waits for the first poll
// holds up the end of the process. Over HTTP/3 the server waits for connections on
// which a client has left data unread until they are idle for too long, whatever
// the handler does.
func TestStopWithStalledClients(t *testing.T) {
	for _, protocol := range []string{"h1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			large := strings.Repeat(filler, 20_000)
			u := newUpstream(t, "")
			u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/hang") {
					<-r.Context().Done()
				}
				fmt.Fprintf(w, `{"n":%d,"filler":%q}`, time.Now().UnixNano(), large)
			})
			c := start(t, u.site("interval 1h")) // what is large takes a slow machine long
			for range 5 {
				c.h3 = c.newH3()                               // streams share the window of their connection
				c.open(protocol, "/api/x?sse_format=full", "") // and reads nothing but the header
			}
			go func() {
				for { // after five seconds each of them opens
					s, err := c.connect(protocol, "/api/hang", "")
					if err != nil {
						return
					}
					s.close()
				}
			}()
			c.eventually("writes block", func() bool {
				return strings.Count(c.goroutines(), "caddy-poll-sse.(*response).write") >= 5 && strings.Contains(c.goroutines(), ".firstPoll(")
			})
			time.Sleep(time.Second) // until the windows are full
			if n := strings.Count(c.goroutines(), "caddy-poll-sse.(*response).write"); n < 5 {
				t.Errorf("%d writes block", n)
			}
			c.endsSoon()
		})
	}
}

// Nor do stalled clients that leave in turns.
func TestStopWhileClientsLeave(t *testing.T) {
	u := newUpstream(t, "")
	large := strings.Repeat(filler, 2000) // more than a socket holds
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%q", large) })
	c := start(t, u.site("interval 1h"))
	var conns []net.Conn
	for range 100 {
		conn, err := net.Dial("unix", filepath.Join(c.dir, "h1"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /api/x HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
		conns = append(conns, conn)
	}
	c.eventually("writes block", func() bool {
		return strings.Count(c.goroutines(), "caddy-poll-sse.(*response).write") >= len(conns)
	})
	go func() {
		for _, conn := range conns {
			time.Sleep(100 * time.Millisecond)
			conn.Close()
		}
	}()
	c.endsSoon()
}

// endsSoon expects that the process waits for no heartbeat, and not until those who read
// nothing are cut, ten seconds after they have ceased to.
func (c *caddy) endsSoon() {
	c.t.Helper()
	took := c.terminate()
	c.t.Logf("Caddy ended %v after SIGTERM", took)
	if took > 7*time.Second {
		c.t.Errorf("Caddy took %v to end", took)
	}
}

// A connection over HTTP/2 that is not read at all, with windows that are never full,
// holds up neither.
func TestStopWithAStalledConnection(t *testing.T) {
	large := strings.Repeat(filler, 20_000)
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"n":%d,"filler":%q}`, time.Now().UnixNano(), large)
	})
	c := start(t, u.site("interval 20ms"))
	conn, err := tls.Dial("tcp", c.address(), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, http2.ClientPreface)
	frames := http2.NewFramer(conn, conn)
	frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	frames.WriteWindowUpdate(0, 1<<30)
	var header bytes.Buffer
	encoder := hpack.NewEncoder(&header)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/api/x?sse_format=full"}, {"accept", "text/event-stream"}} {
		encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: header.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	c.eventually("a write blocks", func() bool { return strings.Contains(c.goroutines(), "caddy-poll-sse.(*response).write") })
	time.Sleep(time.Second)
	if !strings.Contains(c.goroutines(), "caddy-poll-sse.(*response).write") {
		t.Error("it is over")
	}
	c.endsSoon()
}

// Clients live through reloads without a gap or a repeat, and nothing of the old
// generations stays behind.
func TestReloadsUnderLoad(t *testing.T) {
	var counters sync.Map                // by host: each of the two servers polls for itself
	large := strings.Repeat(filler, 100) // so that events are always smaller than it
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		n, _ := counters.LoadOrStore(r.Host, new(atomic.Int64))
		fmt.Fprintf(w, `{"n":%d,"filler":%q}`, n.(*atomic.Int64).Add(1), large)
	})
	site := u.site("interval 20ms\ndrain 200ms\nretry 1ms 2ms")
	c := start(t, site)

	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var seen [30]atomic.Int64 // by each client
	for i := range seen {
		protocol := []string{"h1", "h2"}[i%2]
		clients.Go(func() {
			if err := countOn(ctx, c, protocol, []string{"gzip", "identity"}[i/2%2], &seen[i]); err != nil {
				t.Errorf("client %d over %s: %v", i, protocol, err)
			}
		})
	}
	least := func() int64 {
		n := seen[0].Load()
		for i := range seen {
			n = min(n, seen[i].Load())
		}
		return n
	}
	for began, n := time.Now(), 0; n < 14 || least() < 100 && time.Since(began) < patience && !t.Failed(); n++ {
		time.Sleep(300 * time.Millisecond)
		if err := c.reload(site); err != nil {
			t.Error(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	cancel()
	clients.Wait()
	if n := least(); n < 100 {
		t.Errorf("only %d events", n)
	}
	for _, lost := range []string{`resumes_total{outcome="snapshot"}`, `resumes_total{outcome="smaller"}`, `slow_snapshots_total`} {
		if got := c.metric("caddy_poll_sse_" + lost); got != 0 {
			t.Errorf("%d clients lost their place (%s)", got, lost)
		}
	}
	t.Logf("%d resumed", c.metric(`caddy_poll_sse_resumes_total{outcome="held"}`))
	if err := c.reload(""); err != nil { // so that nothing may linger
		t.Fatal(err)
	}
	c.eventually("nothing of ours runs any longer", func() bool { return !strings.Contains(c.goroutines(), "caddy-poll-sse.") })
	c.eventually("nobody polls", func() bool {
		polls := u.count()
		time.Sleep(200 * time.Millisecond)
		return u.count() == polls
	})
}

// countOn follows the counter until ctx ends: every number once and in order.
func countOn(ctx context.Context, c *caddy, protocol, encoding string, seen *atomic.Int64) error {
	var doc any
	id, last := "", -1
	for ctx.Err() == nil {
		s, err := c.connect(protocol, "/api/count", id, "Accept-Encoding", encoding)
		if err != nil {
			continue // the connection was on its way out
		}
		stop := context.AfterFunc(ctx, s.cancel)
		for {
			e, err := s.Next()
			if err == io.EOF || ctx.Err() != nil {
				break
			}
			if err != nil {
				return err
			}
			if doc, err = applyTo(doc, e.Data); err != nil {
				return err
			}
			n := numberIn(doc)
			if last >= 0 && n != last+1 {
				return fmt.Errorf("%d follows %d (%s)", n, last, e.ID)
			}
			last, id = n, e.ID
			seen.Add(1)
		}
		stop()
		s.close()
	}
	return nil
}

func TestRestart(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			u := newUpstream(t, numbered(1))
			site := u.site("interval 20ms")
			c := start(t, site)
			s := c.open("h1", "/api/x", "")
			doc := apply(t, nil, c.next(s).Data)
			u.set(numbered(2))
			e := c.next(s)
			doc = apply(t, doc, e.Data)

			restart := func() {
				c.process.Process.Signal(signal)
				<-c.exited
				c.run(site)
			}
			restart()
			back := c.open("h1", "/api/x", e.ID)
			if got := c.metric(`caddy_poll_sse_resumes_total{outcome="digest"}`); got != 1 {
				c.eventually("the client is recognised", func() bool {
					return c.metric(`caddy_poll_sse_resumes_total{outcome="digest"}`) == 1
				})
			}
			u.set(numbered(3))
			e = c.next(back)
			if strings.Contains(e.Data, "filler") {
				t.Errorf("after a restart with the same document the client is sent %.100s", e.Data)
			}
			doc = apply(t, doc, e.Data)

			c.process.Process.Signal(signal)
			<-c.exited
			u.set(numbered(4))
			c.run(site)
			back = c.open("h1", "/api/x", e.ID)
			if e = c.next(back); !strings.HasPrefix(e.Data, `[{"op":"replace","path":"",`) {
				t.Errorf("after a restart with another document the client is sent %.100s", e.Data)
			}
			u.set(numbered(5))
			doc = apply(t, apply(t, doc, e.Data), c.next(back).Data)
			if !reflect.DeepEqual(doc, value(t, numbered(5))) {
				t.Errorf("the client holds %v", doc)
			}
		})
	}
}

func TestValidateStartsNothing(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site(""))
	file := filepath.Join(c.dir, "validated")
	if err := os.WriteFile(file, []byte(c.config(u.site("interval 1ms"))), 0o600); err != nil {
		t.Fatal(err)
	}
	c.terminate()
	c.runArgs("validate", "--config", file, "--adapter", "caddyfile")
	<-c.exited
	if code := c.process.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, c.log)
	}
	if u.count() != 0 {
		t.Errorf("%d polls", u.count())
	}
}

func TestFailedReloadChangesNothing(t *testing.T) {
	u := newUpstream(t, numbered(0))
	site := u.site("interval 20ms\nlinger 100ms")
	c := start(t, site)
	s := c.open("h2", "/api/x", "")
	c.next(s)
	for _, bad := range []string{
		u.site("interval never"),
		site + "\nreverse_proxy /bad https://127.0.0.1:1 {\ntransport http {\ntls_trust_pool file /nonexistent.pem\n}\n}",
		site + "\n}\nhttp://127.0.0.1:" + portOf(u) + " {\nrespond taken", // cannot listen there
	} {
		if err := c.reload(bad); err == nil {
			t.Errorf("the reload went well: %s", bad)
		}
	}
	for n := 1; n < 4; n++ {
		u.set(numbered(n))
		if e := c.next(s); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d`, n)) {
			t.Errorf("event %s", e.Data)
		}
	}
	s.close()
	c.eventually("nothing of ours runs any longer", func() bool { return !strings.Contains(c.goroutines(), "caddy-poll-sse.") })
}

func portOf(u *upstream) string {
	_, port, _ := strings.Cut(u.Listener.Addr().String(), ":")
	return port
}
