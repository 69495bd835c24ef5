package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// raw sends a text as it is over a connection of its own, which the test closes at its
// end at the latest.
func (c *caddy) raw(text string) net.Conn {
	c.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(c.dir, "h1"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	// The server may answer, and close, before it has read all: the answer tells.
	conn.Write([]byte(text))
	return conn
}

// rawStream is the request of a stream over HTTP/1.1, with further header lines, which
// are not checked.
func rawStream(uri string, lines ...string) string {
	lines = append([]string{"GET " + uri + " HTTP/1.1", "Accept: text/event-stream"}, lines...)
	if !strings.Contains(strings.ToLower(strings.Join(lines, "\n")), "\nhost:") {
		lines = append(lines, "Host: localhost")
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// footprint is what a process takes.
type footprint struct{ goroutines, files, heap int } // the heap in MiB

func (c *caddy) footprint() (f footprint) {
	c.t.Helper()
	response, err := c.admin.Get("http://localhost/debug/pprof/heap?gc=1")
	if err != nil {
		c.t.Fatal(err)
	}
	response.Body.Close()
	// Where there is no such directory, as on macOS, files are not counted.
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.process.Process.Pid))
	return footprint{c.metric("go_goroutines"), len(files), c.metric("go_memstats_heap_alloc_bytes") >> 20}
}

// returnsTo waits until a process takes about as much as it did before.
func (c *caddy) returnsTo(before footprint) {
	c.t.Helper()
	var now footprint
	defer func() { c.t.Logf("goroutines, files, MiB of heap: %v before, %v after", before, now) }()
	c.eventually("the process takes no more than before", func() bool {
		now = c.footprint()
		return now.goroutines <= before.goroutines+20 && now.files <= before.files+20 && now.heap <= before.heap+16
	})
}

// complaints counts the log lines above info.
func (c *caddy) complaints() int {
	log := c.log.String()
	return strings.Count(log, `"level":"warn"`) + strings.Count(log, `"level":"error"`)
}

// once connects, and leaves with the first event.
func (c *caddy) once(protocol, path, lastEventID string, header ...string) sse.Event {
	c.t.Helper()
	s := c.open(protocol, path, lastEventID, header...)
	defer s.close()
	return c.next(s)
}

const zeroDigest = "AAAAAAAAAAA"

// hostileIDs are what a client may claim to hold, and what it is sent, where the log of
// head has two versions: everything, what follows the first, or nothing.
func hostileIDs(first, head string) (ids map[string]string) {
	const all, step, nothing = "path\":\"\"", "path\":\"/n\"", ""
	epoch, firstDigest, headDigest := head[:11], first[len(first)-11:], head[len(head)-11:]
	return map[string]string{
		"x":                                     all,
		"0":                                     all,
		"-1":                                    all,
		"--":                                    all,
		"18446744073709551616":                  all,
		"Qm7fK2xVw0A-0-" + zeroDigest:           all,  // another epoch
		epoch + "-0-" + zeroDigest:              all,  // our place, another document
		epoch + "-99-" + zeroDigest:             all,  // ahead of us
		epoch + "--1-" + firstDigest:            all,  // not a number
		epoch + "-+1-" + firstDigest:            all,  // likewise
		epoch + "-00-" + firstDigest:            all,  // spelled in another way
		epoch + "-0-" + firstDigest + "=":       all,  // likewise
		epoch + "-3w5e11264sgsg-" + firstDigest: all,  // 2^64
		epoch + "-3w5e11264sgsf-" + zeroDigest:  all,  // 2^64-1
		epoch + "-3w5e11264sgsf-" + firstDigest: all,  // this log never gave it
		epoch + "-1-" + firstDigest:             all,  // likewise
		zeroDigest + "-7-" + firstDigest:        step, // who has a document that we hold has a place
		zeroDigest + "-0-" + zeroDigest:         all,  // the zero id
		"Qm7fK2xVw0A-zz-" + headDigest:          nothing,
		epoch + "-0-" + headDigest:              all, // likewise
		strings.Repeat("A", 64):                 all,
		strings.Repeat("A", 10_000):             all,
		first + "," + head:                      all,
		head + "-":                              all,
		"\xff\xfe" + head:                       all,
		head + "é":                              all,
		"<script>" + head:                       all,
		`"` + head + `"`:                        all,
		`W/"` + head + `"`:                      all,
	}
}

// Whatever a client says that it has seen, it is sent a document that it can use, and
// nobody else notices.
func TestHostileEventIDs(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms"))
	before := c.complaints()
	for _, protocol := range protocols {
		u.set(numbered(0))
		path := "/api/" + protocol
		live := c.open(protocol, path, "")
		first := c.next(live).ID
		u.set(numbered(1))
		head := c.next(live).ID
		for id, want := range hostileIDs(first, head) {
			c.claims(protocol, path, id, id, want)
			c.claims(protocol, path+"?Last-Event-ID="+escapeAll(id), "", id, want)
		}
		for _, odd := range []string{"\x00", "\r", "\n", "\r\n\r\ndata: x", "\u2028", "\x7f"} {
			c.claims(protocol, path+"?lastEventId="+escapeAll(head+odd), "", head+odd, `path":""`)
			c.claims(protocol, path+"?lastEventId="+escapeAll(odd+head), "", odd+head, `path":""`)
		}
		if e := c.once(protocol, path+"?lastEventId="+head+"&lastEventId="+first, ""); !strings.Contains(e.Data, `"/n"`) {
			t.Errorf("the last of two ids does not count: %.100s", e.Data)
		}
		u.set(numbered(2))
		if e := c.next(live); !strings.Contains(e.Data, `"value":2}`) {
			t.Errorf("somebody else is sent %.100s", e.Data)
		}
		live.close()
	}
	if n := c.complaints(); n != before {
		t.Errorf("%d lines in the log", n-before)
	}
}

// escapeAll escapes all bytes, so that a query can say anything.
func escapeAll(text string) string {
	if len(text) > 1000 {
		return text // would be too long for the server
	}
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, "%%%02x", text[i])
	}
	return b.String()
}

// claims connects with an id and checks what comes: an event that has a text in it, or
// none.
func (c *caddy) claims(protocol, path, lastEventID, id, want string) {
	c.t.Helper()
	s := c.open(protocol, path, lastEventID)
	defer s.close()
	if want == "" {
		s.expectNothing(c.t, id)
		return
	}
	if e := c.next(s); !strings.Contains(e.Data, want) {
		c.t.Errorf("%s: who claims %.80q is sent %.200s", protocol, id, e.Data)
	}
}

// expectNothing reads the beginning of a stream, and for some time more.
func (s *connection) expectNothing(t *testing.T, id string) {
	t.Helper()
	timer := time.AfterFunc(patience, s.cancel)
	defer timer.Stop()
	s.Reader = sse.NewReader(&watched{decoded(s.response, s.response.Body), func() error {
		timer.Reset(100 * time.Millisecond)
		return nil
	}})
	if e, err := s.Next(); err == nil {
		t.Errorf("who claims %.80q is sent %.200s", id, e.Data)
	}
	if s.Comments == 0 {
		t.Errorf("who claims %.80q is not even sent a comment", id)
	}
}

// What is no HTTP, or too much of it, is the server's to refuse; what it lets through
// is an id like any other.
func TestHostileHeaderBytes(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms"))
	live := c.open("h1", "/api/x", "")
	c.next(live)
	for name, request := range map[string]string{
		"NUL":           rawStream("/api/x", "Last-Event-ID: a\x00b"),
		"control bytes": rawStream("/api/x", "Last-Event-ID: \x01\x02\x1b[2J\x7f"),
		"tab":           rawStream("/api/x", "Last-Event-ID: \ta\tb"),
		"bare CR":       rawStream("/api/x", "Last-Event-ID: a\rX-Evil: 1"),
		"bare LF":       rawStream("/api/x", "Last-Event-ID: a\nX-Evil: 1"),
		"folded":        rawStream("/api/x", "Last-Event-ID: a\r\n data: evil"),
		"not UTF-8":     rawStream("/api/x", "Last-Event-ID: \xff\xfe\x80"),
		"many":          rawStream("/api/x", strings.TrimSuffix(strings.Repeat("Last-Event-ID: x\r\n", 5000), "\r\n")),
		"empty, then x": rawStream("/api/x", "Last-Event-ID:", "Last-Event-ID: x"),
		"900 kB":        rawStream("/api/x", "Last-Event-ID: "+strings.Repeat("A", 900_000)),
		"2 MB":          rawStream("/api/x", "Last-Event-ID: "+strings.Repeat("A", 2<<20)),
		"50 kB":         rawStream("/api/x", "Last-Event-ID: "+strings.Repeat("A", 50_000)),
		"query, 50 kB":  rawStream("/api/x?lastEventId=" + strings.Repeat("A", 50_000)),
		"query, 900 kB": rawStream("/api/x?lastEventId=" + strings.Repeat("A", 900_000)),
		"query, 2 MB":   rawStream("/api/x?lastEventId=" + strings.Repeat("A", 2<<20)),
		"many queries":  rawStream("/api/x?" + strings.Repeat("lastEventId=&", 3_000)),
		"WebKit": rawStream("/api/x", "Last-Event-ID: x\xffy", "Cache-Control: no-cache",
			"User-Agent: Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15"),
	} {
		conn := c.raw(request)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		switch {
		case err != nil && len(request) > 1<<20:
			// The server closes what it does not read, which may overtake its answer.
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case response.StatusCode == http.StatusBadRequest, response.StatusCode == http.StatusRequestHeaderFieldsTooLarge:
		case response.StatusCode != http.StatusOK:
			t.Errorf("%s: %s", name, response.Status)
		default:
			r := sse.NewReader(response.Body)
			r.WebKit = name == "WebKit"
			if e, err := r.Next(); err != nil || numberIn(apply(t, nil, e.Data)) != 0 || e.Type != "" {
				t.Errorf("%s: %+v (%v)", name, e, err)
			}
		}
		if err == nil {
			t.Logf("%s: %s", name, response.Status)
		}
		conn.Close()
	}
	u.set(numbered(1))
	if e := c.next(live); !strings.Contains(e.Data, `"value":1}`) {
		t.Errorf("somebody else is sent %.100s", e.Data)
	}
}
