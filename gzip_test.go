package pollsse

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// gunzip returns the text of a gzip stream that may have been cut off, and whether it
// was.
func gunzip(t *testing.T, compressed []byte) (text string, cut bool) {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	return string(b), err != nil
}

// twin writes the same to a client that accepts gzip and to one that does not.
type twin struct {
	plain, gzip recordedResponse
	responses   [2]*response
	cursor      eventID
}

func newTwin() *twin {
	w := new(twin)
	w.plain.header, w.gzip.header = make(http.Header), make(http.Header)
	for i, recorded := range []*recordedResponse{&w.plain, &w.gzip} {
		w.responses[i] = newResponse(recorded, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil))
		w.responses[i].begin(i == 1)
	}
	return w
}

func (w *twin) write(t *testing.T, text []byte, events []*frame) {
	t.Helper()
	for _, r := range w.responses {
		if err := r.write(time.Now(), text, slices.Clone(events)); err != nil {
			t.Fatal(err)
		}
	}
}

// Whenever clients join, resume, fall behind or are sent something of their own, what
// they decode is what others are sent, at once, and a clean end is one to any decoder.
func TestGzipIsTheSameStream(t *testing.T) {
	for _, c := range []struct {
		name     string
		versions int
		events   int
		text     func(r *rand.Rand, n int) string
	}{
		{"patches", 100, 20, func(r *rand.Rand, n int) string {
			return fmt.Sprintf(`[{"op":"replace","path":"/prices/%d","value":%d}]`, r.IntN(50), r.IntN(1e6))
		}},
		{"whole documents", 60, 0, func(r *rand.Rand, n int) string {
			return fmt.Sprintf(`{"n":%d,"rest":%q}`, n, strings.Repeat("so much ", 100))
		}},
		{"noise", 100, 20, func(r *rand.Rand, n int) string {
			b := make([]byte, r.IntN(100))
			for i := range b {
				b[i] = byte(' ' + r.IntN(90))
			}
			return string(b)
		}},
		{"large", 20, 3, func(r *rand.Rand, n int) string { return strings.Repeat(fmt.Sprint(n, " "), 1+r.IntN(60_000)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			l := newEventLog(eventLogConfig{maxEvents: c.events, maxBytes: 1 << 20})
			var twins []*twin
			for n := range c.versions {
				text := c.text(r, n)
				l.append(append(documentNo(n), text...), []byte(text), 1)
				if r.IntN(4) == 0 || n == 0 {
					twins = append(twins, newTwin())
					if n > 0 && r.IntN(2) == 0 {
						twins[len(twins)-1].cursor = l.versions[r.IntN(len(l.versions))].id
					}
				}
				for _, w := range twins {
					var comment []byte
					switch r.IntN(10) {
					case 0:
						comment = []byte(heartbeat)
					case 1:
						comment = bytes.Repeat([]byte(padding), 50)
					case 2, 3:
						continue // falls behind
					}
					b := l.after(w.cursor, 1, nil)
					w.cursor = b.cursor
					w.write(t, comment, b.events)
					if n%10 == 0 {
						if got, cut := gunzip(t, w.gzip.body.Bytes()); got != w.plain.body.String() || !cut {
							t.Fatalf("version %d: decoded %d bytes of %d", n, len(got), w.plain.body.Len())
						}
					}
				}
			}
			for _, w := range twins {
				w.responses[1].end()
				if got, cut := gunzip(t, w.gzip.body.Bytes()); got != w.plain.body.String() || cut {
					t.Errorf("in the end %d bytes of %d", len(got), w.plain.body.Len())
				}
			}
			for _, w := range twins {
				// The comments are not compressed, and each text has ten bytes of headers.
				if n, max := w.gzip.body.Len(), w.plain.body.Len()+11*len(w.plain.sizes)+50; n > max {
					t.Errorf("%d bytes for %d", n, w.plain.body.Len())
				}
			}
		})
	}
}

// An event is compressed once for all, much better for those who have the one before.
func TestEventsAreCompressedOnce(t *testing.T) {
	event := func(n int) []byte {
		return fmt.Appendf(nil, "data: [{\"op\":\"replace\",\"path\":\"/prices/%d/price\",\"value\":%d.5}]\nid: Qm7fK2xVw0A-%d-k3Xp23Zr7sQ\n\n", n*7%50, n*31%1000, n)
	}
	first := newFrame(event(1), nil)
	second := newFrame(event(2), first)
	var wait sync.WaitGroup
	blocks := make([][]byte, 8)
	for i := range blocks {
		wait.Go(func() { blocks[i] = second.blocksAfter(uint64(i%2) * first.number) })
	}
	wait.Wait()
	for i := range blocks {
		if &blocks[i][0] != &blocks[i%2][0] {
			t.Error("compressed more than once")
		}
	}
	if alone, next := len(blocks[0]), len(blocks[1]); next > 60*len(second.text)/100 || alone > storedLen(len(second.text)) || next >= alone {
		t.Errorf("%d bytes, %d after the one before, of %d", alone, next, len(second.text))
	}
	if second.blocksAfter(second.number)[0] != blocks[0][0] || second.blocksAfter(0)[0] != blocks[0][0] {
		t.Error("compressed for somebody who has not the one before")
	}
}

// A frame keeps no large text alive but its own.
func TestLargeFramesAreForgotten(t *testing.T) {
	large := newFrame(make([]byte, maxWindow+1), nil)
	if f := newFrame([]byte("x"), large); f.before.text != nil || f.before.number != 0 {
		t.Error("kept")
	}
	largest := newFrame(make([]byte, maxWindow), nil)
	if f := newFrame([]byte("x"), largest); f.before.number != largest.number {
		t.Error("not kept, though deflate looks back as far")
	}
}

// Delivering costs no memory, compressed or not.
func TestDeliveriesDoNotAllocate(t *testing.T) {
	for _, compress := range []bool{false, true} {
		l := logOf(10, 1<<20)
		appendVersions(l, 0, 10)
		ids := []eventID{l.versions[0].id, l.versions[8].id}
		w := &recordedResponse{header: make(http.Header)}
		s := stream{log: l, response: newResponse(greedy{w}, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil))}
		s.response.begin(compress)
		var events []*frame
		n := 0
		if allocations := testing.AllocsPerRun(100, func() {
			b := s.log.after(ids[1], 1, events)
			if n += len(b.events); s.response.write(time.Now(), nil, b.events) != nil {
				t.Error("not written")
			}
			events = reusable(b.events)
		}); allocations > 0 || n < 100 {
			t.Errorf("compressed %v: %v allocations, %d events", compress, allocations, n)
		}
	}
}

// greedy is a client that reads everything.
type greedy struct{ *recordedResponse }

func (greedy) Write(p []byte) (int, error)      { return len(p), nil }
func (greedy) SetWriteDeadline(time.Time) error { return nil }
func (greedy) Flush()                           {}

// acceptEncodings are Accept-Encoding header fields, and whether they accept gzip.
var acceptEncodings = map[string]bool{
	"gzip": true, "GZIP": true, "x-gzip": true, "br, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.000, br": false,
	"*": true, "*;q=0": false, "gzip, *;q=0": true, "gzip;q=0, *": false, "*, gzip;q=0": false, "": false, "identity": false, "br, zstd": false, "gzipped": false,
}

func TestWhoAcceptsGzip(t *testing.T) {
	for accept, want := range acceptEncodings {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", accept)
		if got := acceptsGzip(r); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Accept-Encoding"] = []string{"br", "gzip"}
	if !acceptsGzip(r) {
		t.Error("the second line is not read")
	}
}

// Streams are compressed for who accepts it, to a proper end, and nothing else is.
func TestCompressedStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{MaxAge: caddy.Duration(time.Minute), Interval: caddy.Duration(time.Hour)})
		c := s.get(s.h, "/", "Accept-Encoding", "gzip")
		plain := s.get(s.h, "/", "Accept-Encoding", "gzip;q=0")
		time.Sleep(40 * time.Second)
		synctest.Wait()
		want := "\ndata: [{\"op\":\"replace\",\"path\":\"\",\"value\":{\"n\":1}}]\nid: "
		got, cut := gunzip(t, []byte(c.text()))
		if !cut || !strings.Contains(got, want) || !strings.HasSuffix(got, "\n:\n:\n") || !strings.HasPrefix(got, ":\nretry: ") {
			t.Errorf("cut off %v: %q", cut, got)
		}
		if c.header.Get("Content-Encoding") != "gzip" || c.header.Get("Vary") != "Accept, Accept-Encoding" || c.header.Get("Content-Length") != "" {
			t.Errorf("header %v", c.header)
		}
		if plain.header.Get("Content-Encoding") != "" || plain.header.Get("Vary") != "Accept, Accept-Encoding" || !strings.Contains(plain.text(), want) {
			t.Errorf("uncompressed: header %v, %q", plain.header, plain.text())
		}
		<-c.done // its age
		if got, cut := gunzip(t, []byte(c.text())); cut || !strings.Contains(got, want) {
			t.Errorf("in the end %q", got)
		}
		wait := s.longPoll(s.h, 1, "")
		if <-wait.done; wait.header.Get("Content-Encoding") != "" {
			t.Error("long-polls are not ours to compress")
		}
		s.close(c, plain)
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Compress: "off", Interval: caddy.Duration(time.Hour)})
		c := s.get(s.h, "/", "Accept-Encoding", "gzip")
		synctest.Wait()
		if c.header.Get("Content-Encoding") != "" || len(c.events()) != 1 {
			t.Errorf("compress off: %v, %q", c.header, c.text())
		}
		s.close(c)
	})
}

// What a stream costs: events refer to the one before, unless something else came between.
func TestEventsInARowAreSmall(t *testing.T) {
	var frames []*frame
	var before *frame
	for n := range 4 {
		before = newFrame(fmt.Appendf(nil, "data: [{\"op\":\"replace\",\"path\":\"/prices/7/price\",\"value\":%d.5}]\nid: Qm7fK2xVw0A-%d-k3Xp23Zr7sQ\n\n", n*31%1000, n), before)
		frames = append(frames, before)
	}
	w := &recordedResponse{header: make(http.Header)}
	r := newResponse(w, httptest.NewRequest(http.MethodGet, "/", nil), newOpenStreams(nil))
	r.begin(true)
	r.write(time.Now(), nil, slices.Clone(frames[:2]))
	r.write(time.Now(), nil, slices.Clone(frames[2:3]))
	r.write(time.Now(), []byte(heartbeat), slices.Clone(frames[3:]))
	var want []int
	for i, f := range frames {
		n := len(f.alone.of(f.text, nil))
		if i == 1 || i == 2 {
			n = len(f.next.of(f.text, f.before.text))
		}
		want = append(want, n)
	}
	want = append(append([]int{len(gzipHeader)}, want[:3]...), storedLen(len(heartbeat)), want[3])
	if fmt.Sprint(w.sizes) != fmt.Sprint(want) {
		t.Errorf("writes of %d bytes, want %d", w.sizes, want)
	}
	if got, cut := gunzip(t, w.body.Bytes()); !cut || got != text(frames[:3])+heartbeat+text(frames[3:]) {
		t.Errorf("%q", got)
	}
	w.calls = nil
	if r.end(); fmt.Sprint(w.calls) != "[write flush]" {
		t.Errorf("it ends with %s", w.calls)
	}
}

// Decoders have each write at once, without a byte of the next.
func TestGzipIsDecodedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := io.Pipe()
		var decoded bytes.Buffer
		go func() {
			r, err := gzip.NewReader(from)
			if err == nil {
				_, err = io.Copy(&decoded, r)
			}
			if err != nil {
				t.Error(err)
			}
		}()
		g := new(gzipStream)
		to.Write(gzipHeader)
		random := rand.New(rand.NewPCG(1, 2))
		want := ""
		expect := func() {
			t.Helper()
			if synctest.Wait(); decoded.String() != want {
				t.Fatalf("decoded %d bytes of %d", decoded.Len(), len(want))
			}
		}
		noise := make([]byte, 100)
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		for _, text := range []string{heartbeat, padding, "plain " + strings.Repeat("text ", 50), string(noise), strings.Repeat("x", maxStored), strings.Repeat("y", maxStored+1)} {
			want += text
			to.Write(g.text([]byte(text)))
			expect()
			want += text
			to.Write(g.frame(newFrame([]byte(text), nil)))
			expect()
		}
		to.Write(g.trailer())
		to.Close()
		expect()
	})
}

// No text grows by more than stored blocks take.
func TestNoiseIsStored(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 10, 100, 1000, maxStored - 1, maxStored, maxStored + 1, 3 * maxStored} {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(random.Uint32())
		}
		stored := appendStored(nil, text)
		if storedLen(n) != len(stored) {
			t.Errorf("%d bytes are stored in %d, not %d", n, len(stored), storedLen(n))
		}
		if got := len(deflate(text, nil)); got > len(stored) {
			t.Errorf("%d bytes are compressed to %d", n, got)
		}
	}
}

// Where compressing failed once, nothing is sent that has not been compressed.
func TestFramesWithoutBlocks(t *testing.T) {
	f := newFrame([]byte("x"), nil)
	f.alone.once.Do(func() {}) // panicked
	defer func() {
		if recover() == nil {
			t.Error("sent as nothing")
		}
	}()
	f.blocksAfter(0)
}

// What a client has been sent decodes to what others are sent, after each write and in
// the end, whatever frames and texts of its own follow each other.
func FuzzGzip(f *testing.F) {
	seeds := 0
	for i, data := range wireData() {
		if len(data) > 1000 {
			continue
		}
		event := appendEvent(nil, "", data, eventID{1, uint64(i), 3})
		f.Add(slices.Concat(event, event, event, event, event), []byte{58, 59, 61, 62, 60, 2, 1, 3}, uint16(i))
		seeds++
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Add(make([]byte, 300), []byte{255, 2, 1}, uint16(2*maxStored/255))
	f.Fuzz(func(t *testing.T, text, lengths []byte, times uint16) {
		var g gzipStream
		var last *frame
		plain, compressed := []byte(nil), slices.Clone(gzipHeader)
		for _, n := range lengths {
			part := text[:min(int(n), len(text))]
			text = text[len(part):]
			if n%16 == 15 { // longer than any block
				part = bytes.Repeat(part, min(int(times), 2*maxStored/(len(part)+1)))
			}
			plain = append(plain, part...)
			switch n % 3 {
			case 0: // to this client alone
				compressed = append(compressed, g.text(part)...)
			case 1:
				last = newFrame(part, last)
				compressed = append(compressed, g.frame(last)...)
			case 2: // the one before was sent to others
				last = newFrame(part, newFrame(text, last))
				compressed = append(compressed, g.frame(last)...)
			}
			if got, cut := gunzip(t, compressed); got != string(plain) || !cut {
				t.Fatalf("%q is decoded, cut %v, after %q", got, cut, plain)
			}
		}
		if got, cut := gunzip(t, append(compressed, g.trailer()...)); got != string(plain) || cut {
			t.Fatalf("%q is decoded, cut %v, in the end, of %q", got, cut, plain)
		}
	})
}
