//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"slices"
	"testing"
)

// response returns a snapshot of version 0 and events that lead to others.
func response(versions ...int64) (events [][]byte) {
	m := newMarket()
	document := fmt.Sprintf(`data: [{"op":"replace","path":"","value":{"e":"%s","rest":""}}]`+"\nid: _\n\n", changing(m, 0, 1, 200))
	events = append(events, []byte(document))
	for _, n := range versions {
		events = append(events, eventFrame([]byte(changing(m, n, n, 200)), n))
	}
	return events
}

// feed scans data in pieces of some size.
func feed(s *stream, t *tally, data []byte, size int) {
	buf := make([]byte, maxHead+size)
	for piece := range slices.Chunk(data, size) {
		n := copy(buf[maxHead:], piece)
		s.scan(t, buf, maxHead, maxHead+n, 1e6)
	}
}

func TestScan(t *testing.T) {
	for _, test := range []struct {
		versions                  []int64
		delivered, lost, repeated int64
	}{
		{versions: []int64{1, 2, 3}, delivered: 3},
		{versions: []int64{1, 4, 5}, delivered: 3, lost: 2},
		{versions: []int64{1, 2, 2, 3}, delivered: 3, repeated: 1},
	} {
		data := bytes.Join(response(test.versions...), nil)
		for size := 1; size <= len(data); size++ {
			s, got := stream{last: -1}, tally{}
			feed(&s, &got, data, size)
			if got.delivered != test.delivered || got.lost != test.lost || got.repeated != test.repeated {
				t.Errorf("%v in pieces of %d: %d delivered, %d lost, %d repeated", test.versions, size, got.delivered, got.lost, got.repeated)
			}
		}
	}
}

func TestFrameSize(t *testing.T) {
	for _, n := range []int64{36, 1295} { // whose ids have 26 characters
		for _, size := range []int{200, 3000} {
			if got := len(eventFrame([]byte(changing(newMarket(), n, 1e18, size)), n)); got != size {
				t.Errorf("event %d has %d bytes, not %d", n, got, size)
			}
		}
	}
}

func TestGzipBody(t *testing.T) {
	var compressed, body bytes.Buffer
	w := gzip.NewWriter(&compressed)
	for _, event := range response(1, 2, 4) {
		w.Write(event)
		w.Flush()
		fmt.Fprintf(&body, "%x\r\n%s\r\n", compressed.Len(), compressed.Bytes())
		compressed.Reset()
	}
	for size := 1; size <= body.Len(); size++ {
		g, chunks, got := gzipBody{kept: true}, tally{}, tally{}
		now := int64(0)
		for piece := range slices.Chunk(body.Bytes(), size) {
			now += 1e6
			g.read(&chunks, piece, now)
		}
		if err := g.decode(&got); err != nil {
			t.Fatal(err)
		}
		if chunks.delivered != 4 || got.delivered != 3 || got.lost != 1 {
			t.Errorf("in pieces of %d: %d chunks, %d delivered, %d lost", size, chunks.delivered, got.delivered, got.lost)
		}
		if size == 1 && (got.latencies[0] >= got.latencies[1] || got.latencies[2] > float32(body.Len())-1) {
			t.Errorf("latencies %v of %d reads", got.latencies, body.Len())
		}
	}
}
