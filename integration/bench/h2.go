//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"math"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// openingFrames returns what a client sends over HTTP/2 with prior knowledge: so many
// requests, and windows that never close, so that it has no more to say.
func openingFrames(requests int) []byte {
	var b, block bytes.Buffer
	b.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&b, nil)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32})
	framer.WriteWindowUpdate(0, math.MaxInt32-65535)
	encoder := hpack.NewEncoder(&block)
	for i := range requests {
		block.Reset()
		for _, field := range []hpack.HeaderField{
			{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "localhost"},
			{Name: ":path", Value: "/doc"}, {Name: "accept", Value: "text/event-stream"},
		} {
			encoder.WriteField(field)
		}
		framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		})
	}
	return b.Bytes()
}

// frames reads the frames of a connection, which come in pieces (RFC 9113 §4.1).
type frames struct {
	header [frameHeaderLen]byte
	got    int // bytes of it
	left   int // bytes of the payload that have not come
	ping   [8]byte
	pinged int // bytes of it
}

const frameHeaderLen = 9

func (f *frames) kind() http2.FrameType { return http2.FrameType(f.header[3]) }
func (f *frames) flags() http2.Flags    { return http2.Flags(f.header[4]) }

// read takes what has come in the buffer of c from one index to another.
func (f *frames) read(c *clients, k *connection, from, to int, now int64) {
	for from < to {
		if f.got < frameHeaderLen {
			n := copy(f.header[f.got:], c.buf[from:to])
			f.got += n
			from += n
			if f.got < frameHeaderLen {
				return
			}
			f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
		}
		n := min(f.left, to-from)
		f.payload(c, k, from, from+n, now)
		from += n
		if f.left -= n; f.left == 0 {
			f.complete(k)
			f.got, f.pinged = 0, 0
		}
	}
}

// stream returns the stream that the frame is for, nil where it is for the connection.
func (f *frames) stream(k *connection) *stream {
	id := binary.BigEndian.Uint32(f.header[5:]) & math.MaxInt32
	if id == 0 {
		return nil
	}
	return &k.streams[(id-1)/2]
}

func (f *frames) payload(c *clients, k *connection, from, to int, now int64) {
	switch f.kind() {
	case http2.FrameData:
		s := f.stream(k)
		s.bytes += int64(to - from)
		s.scan(&c.tally, c.buf, from, to, now)
	case http2.FrameHeaders:
		const status200 = 0x88 // in HPACK's static table (RFC 7541, appendix A)
		if s := f.stream(k); s.answer == unanswered && to > from {
			if s.answer = refused; c.buf[from] == status200 {
				s.answer = answered
			}
		}
	case http2.FramePing:
		f.pinged += copy(f.ping[f.pinged:], c.buf[from:to])
	}
}

// complete answers the frames that want it, and notes ends. What cannot be answered ends
// soon, and is noticed then.
func (f *frames) complete(k *connection) {
	const ack = http2.FlagSettingsAck // also that of pings
	switch kind := f.kind(); {
	case kind == http2.FrameSettings && !f.flags().Has(ack):
		unix.Write(k.fd, []byte{0, 0, 0, byte(kind), byte(ack), 0, 0, 0, 0})
	case kind == http2.FramePing && !f.flags().Has(ack):
		unix.Write(k.fd, append([]byte{0, 0, 8, byte(kind), byte(ack), 0, 0, 0, 0}, f.ping[:]...))
	case kind == http2.FrameRSTStream:
		f.stream(k).end(false)
	case (kind == http2.FrameData || kind == http2.FrameHeaders) && f.flags().Has(http2.FlagDataEndStream):
		f.stream(k).end(true)
	}
}
