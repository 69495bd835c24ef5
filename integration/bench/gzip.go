//go:build linux

package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// sampled is how many compressed responses are kept and decoded. Of the others only
// the chunks are counted, or the clients would cost more than the server.
const sampled = 50

// gzipBody is a compressed response over HTTP/1.1.
type gzipBody struct {
	kept    bool
	chunks  []gzipChunk // if kept
	partial []byte      // of the chunk that is coming
	left    int         // bytes of it that have not come
	size    int         // of the next, as far as it has been read
}

type gzipChunk struct {
	data []byte
	came int64 // in Unix nanoseconds
}

// read counts each chunk that ends in data as a delivery.
func (g *gzipBody) read(t *tally, data []byte, now int64) {
	for len(data) > 0 {
		if g.left == 0 {
			g.frame(data[0])
			data = data[1:]
			continue
		}
		n := min(g.left, len(data))
		if g.kept {
			g.partial = append(g.partial, data[:n]...)
		}
		data = data[n:]
		if g.left -= n; g.left > 0 {
			return
		}
		t.delivered++
		if g.kept {
			g.chunks = append(g.chunks, gzipChunk{g.partial, now})
			g.partial = nil
		}
	}
}

// frame reads a byte between the data of two chunks (RFC 9112 §7.1).
func (g *gzipBody) frame(b byte) {
	switch {
	case b >= '0' && b <= '9':
		g.size = g.size<<4 | int(b-'0')
	case b >= 'a' && b <= 'f':
		g.size = g.size<<4 | int(b-'a'+10)
	case b == '\n': // behind the data of a chunk there is no size before it
		g.left, g.size = g.size, 0
	}
}

// summarizeGzip corrects a report by what the sampled responses say.
func (c *clients) summarizeGzip(r *report) error {
	sample := &tally{since: c.since, base: c.base}
	for i := range c.connections {
		if g := c.connections[i].gzip; g != nil && g.kept {
			if err := g.decode(sample); err != nil {
				return fmt.Errorf("decoding a response: %w", err)
			}
		}
	}
	delivered, bytes := r.Delivered, r.Bytes
	sample.summarize(r)
	r.Delivered, r.Bytes = delivered, bytes
	return nil
}

// decode notes the events of a response, each when the chunk came that completes it.
func (g *gzipBody) decode(t *tally) error {
	chunks := &chunkReader{chunks: g.chunks}
	body, err := gzip.NewReader(bufio.NewReader(chunks))
	if err != nil {
		return err
	}
	s := &stream{last: -1}
	buf := make([]byte, maxHead+64<<10)
	for {
		n, err := body.Read(buf[maxHead:])
		s.scan(t, buf, maxHead, maxHead+n, chunks.came)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF: // it was still going on
			return nil
		case err != nil:
			return err
		}
	}
}

// chunkReader reads from one chunk at a time.
type chunkReader struct {
	chunks []gzipChunk
	came   int64 // of the chunk that was read last
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.chunks) == 0 {
		return 0, io.EOF
	}
	chunk := &r.chunks[0]
	n := copy(p, chunk.data)
	r.came = chunk.came
	if chunk.data = chunk.data[n:]; len(chunk.data) == 0 {
		r.chunks = r.chunks[1:]
	}
	return n, nil
}
