package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// Clients that accept gzip are sent the same events, at once and to a proper end,
// whether they join, resume, or are sent a heartbeat between two events.
func TestGzip(t *testing.T) {
	u := newUpstream(t, numbered(0))
	site := u.site("interval 10ms\nheartbeat 200ms\ndrain 100ms")
	c := start(t, site)
	for _, protocol := range protocols {
		u.set(numbered(0))
		path := "/api/x?" + protocol
		s, plain := c.open(protocol, path, "", "Accept-Encoding", "gzip"), c.open(protocol, path, "")
		if got := s.response.Header.Get("Content-Encoding"); got != "gzip" || plain.response.Header.Get("Content-Encoding") != "" {
			t.Fatalf("%s: Content-Encoding %q", protocol, got)
		}
		var doc any
		var id string
		for n := range 8 {
			u.set(numbered(n))
			began := time.Now()
			e := c.next(s)
			if late := time.Since(began); late > 5*time.Second {
				t.Errorf("%s: the event came after %v", protocol, late)
			}
			if doc = apply(t, doc, e.Data); numberIn(doc) != n || !reflect.DeepEqual(c.next(plain), e) {
				t.Errorf("%s: event %s leads to %v", protocol, e.ID, doc)
			}
			if n == 4 {
				id = e.ID
			}
			if n%3 == 2 {
				time.Sleep(300 * time.Millisecond) // heartbeats
			}
		}
		back := c.open(protocol, path, id, "Accept-Encoding", "gzip")
		for n := 5; n < 8; n++ {
			if e := c.next(back); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d}`, n)) {
				t.Errorf("%s: resumed with %.100s", protocol, e.Data)
			}
		}
		if err := c.reload(site); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*connection{s, back} {
			if _, err := c.tryNext(s); err != io.EOF {
				t.Errorf("%s: ended with %v", protocol, err)
			}
		}
	}
}

// nodeClient prints the stream as it comes.
const nodeClient = `
const response = await fetch(process.argv[1], { headers: { Accept: 'text/event-stream' } })
if (response.headers.get('content-encoding') !== 'gzip') throw new Error('not compressed')
for await (const bytes of response.body) process.stdout.write(bytes)`

// Clients that ask for compression by themselves decode what comes at once.
func TestGzipOfOtherClients(t *testing.T) {
	u := newUpstream(t, numbered(0))
	port := freePort(t)
	startExample(t, port,
		"reverse_proxy /api/* 127.0.0.1:8081", "reverse_proxy /api/* "+u.Listener.Addr().String(),
		"http://:8081 {", fmt.Sprintf("http://:%d {", freePort(t)),
		"interval 1s", "interval 20ms\nheartbeat 1h")
	url := fmt.Sprintf("http://localhost:%d/api/", port)
	follow := func(t *testing.T, stream io.Reader) {
		r := sse.NewReader(stream)
		var doc any
		for n := range 5 {
			u.set(numbered(n))
			e, err := r.Next() // or what is held back never comes
			if err != nil {
				t.Fatal(err)
			}
			if doc = apply(t, doc, e.Data); numberIn(doc) != n {
				t.Errorf("%v instead of version %d", doc, n)
			}
		}
	}
	for name, arguments := range map[string][]string{
		"curl": {"-sN", "--compressed", "-H", "Accept: text/event-stream", url + "curl"},
		"node": {"--input-type=module", "-e", nodeClient, url + "node"},
	} {
		t.Run(name, func(t *testing.T) {
			needs(t, name)
			u.set(numbered(0))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			command := exec.CommandContext(ctx, name, arguments...)
			stream, err := command.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			defer command.Wait()
			defer cancel()
			follow(t, stream)
		})
	}
	t.Run("Go", func(t *testing.T) {
		u.set(numbered(0))
		request, err := http.NewRequest(http.MethodGet, url+"go", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", "text/event-stream")
		response, err := (&http.Client{Timeout: patience}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if !response.Uncompressed {
			t.Error("not compressed")
		}
		follow(t, response.Body)
	})
}
