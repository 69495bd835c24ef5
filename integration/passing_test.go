package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOtherRequestsPass(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
		w.Header().Set("Vary", "Origin")
		if r.Header.Get("Accept") != "" {
			w.Header().Set("X-Accept", r.Header.Get("Accept"))
		}
		w.WriteHeader(http.StatusTeapot)
		io.Copy(w, r.Body)
	})
	c := start(t, u.site(""))
	for _, protocol := range protocols {
		client, base := c.client(protocol)
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
			var in io.Reader
			if method == "POST" || method == "PUT" {
				in = strings.NewReader("some body")
			}
			request, err := http.NewRequestWithContext(t.Context(), method, base+"/api/x?sse_format=full", in)
			if err != nil {
				t.Fatal(err)
			}
			if method != "GET" {
				request.Header.Set("Accept", "text/event-stream")
			}
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			out, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusTeapot || response.Header.Get("X-Method") != method || in != nil && string(out) != "some body" {
				t.Errorf("%s %s: %s, %q", protocol, method, response.Status, out)
			}
			vary := strings.Join(response.Header["Vary"], ", ")
			if strings.Contains(vary, "Accept") != (method == "GET") || !strings.Contains(vary, "Origin") {
				t.Errorf("%s %s: Vary %q", protocol, method, vary)
			}
		}
	}
}

// A body that is streamed up and down passes as it comes.
func TestStreamingBodiesPass(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		controller := http.NewResponseController(w)
		controller.EnableFullDuplex()
		w.WriteHeader(200)
		controller.Flush()
		for lines := bufio.NewScanner(r.Body); lines.Scan(); controller.Flush() {
			fmt.Fprintln(w, "echo", lines.Text())
		}
	})
	c := start(t, fmt.Sprintf("poll_sse\nreverse_proxy %s {\nflush_interval -1\n}", u.Listener.Addr()))
	client, base := c.client("h2")
	in, out := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), "POST", base+"/", in)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, line := range []string{"a", "b"} {
		fmt.Fprintln(out, line)
		if got, err := lines.ReadString('\n'); err != nil || got != "echo "+line+"\n" {
			t.Errorf("%q (%v)", got, err)
		}
	}
	out.Close()
}

func TestUpgradesPass(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, "echo ", line)
		rw.Flush()
	})
	c := start(t, u.site(""))
	conn, err := net.Dial("unix", filepath.Join(c.dir, "h1"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != 101 {
		t.Fatalf("%v, %v", response, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := r.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("%q (%v)", line, err)
	}
}

// A backend that streams by itself serves its clients itself, ids and all.
func TestNativeStreamsPass(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		fmt.Fprintf(w, "data: after %s\nid: 8\n\n", r.Header.Get("Last-Event-ID"))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	c := start(t, u.site("interval 10ms"))
	for _, protocol := range protocols {
		for _, id := range []string{"", "7"} {
			s, err := c.connect(protocol, "/api/native", id)
			if err != nil {
				t.Fatal(err)
			}
			e, err := c.tryNext(s)
			if err != nil || e.Data != "after "+id || e.ID != "8" || s.response.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s: %+v (%v)", protocol, e, err)
			}
			s.close()
		}
	}
	c.eventually("nothing lingers", func() bool { return !strings.Contains(c.goroutines(), "caddy-poll-sse.") })
}

// Other handlers around the directive neither hold events back nor change them.
func TestWrappers(t *testing.T) {
	for name, around := range map[string]string{
		"encode":    "encode {\nzstd\ngzip\nmatch {\nheader Content-Type *\n}\nminimum_length 1\n}",
		"log":       "log",
		"intercept": "intercept {\n@x status 599\nhandle_response @x {\nrespond x\n}\n}",
		"templates": "templates {\nmime text/html\n}",
		"timeouts":  "timeouts {\nwrite_timeout 1m\n}",
		"tracing":   "tracing {\nspan x\n}",
		"all":       "log\nencode\nintercept {\n@x status 599\nhandle_response @x {\nrespond x\n}\n}\nheader X-A b",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_EXPORTER", "none")
			u := newUpstream(t, numbered(0))
			c := start(t, around+"\n"+u.site("interval 10ms"))
			for _, protocol := range protocols {
				u.set(numbered(0))
				accept := "gzip, zstd"
				if protocol == "h2" {
					accept = "zstd" // is not ours
				}
				s := c.open(protocol, "/api/x?"+protocol, "", "Accept-Encoding", accept)
				if got := s.response.Header["Content-Encoding"]; (protocol == "h2") != (len(got) == 0) || len(got) > 0 && (len(got) > 1 || got[0] != "gzip") {
					t.Errorf("%s: Content-Encoding %q", protocol, got)
				}
				doc := apply(t, nil, c.next(s).Data)
				for n := 1; n < 4; n++ {
					u.set(numbered(n))
					began := time.Now()
					if doc = apply(t, doc, c.next(s).Data); numberIn(doc) != n {
						t.Errorf("%s: %v", protocol, doc)
					}
					if late := time.Since(began); late > 10*time.Second {
						t.Errorf("%s: the event came after %v", protocol, late)
					}
				}
				s.close()
			}
		})
	}
}
