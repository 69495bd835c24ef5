//go:build linux

package main

import (
	"bytes"
	"strconv"
	"time"
)

// stream is what a client remembers of a response.
type stream struct {
	last    int64 // version that has come; -1 before the first
	answer  answerState
	ended   int64 // when, in Unix nanoseconds; 0 while it goes on
	clean   bool  // with the last chunk
	bytes   int64
	retry   int // milliseconds
	carry   [maxHead]byte
	carried int // bytes of an event's head whose rest has not come yet
}

// answerState is how far a response has come.
type answerState byte

const (
	unanswered answerState = iota
	answered
	refused // with a status that is not 200
)

// marker is what the text of an event stands behind, or the document of a snapshot.
var (
	marker       = []byte(`"value":`)
	patchHead    = []byte(`"`)
	snapshotHead = []byte(`{"e":"`)
)

// maxHead is more than a marker, a head and two numbers can be.
const maxHead = 64

// scan notes the events that buf[from:to] holds, which came at now. It may overwrite
// maxHead bytes before from.
func (s *stream) scan(t *tally, buf []byte, from, to int, now int64) {
	from -= copy(buf[from-s.carried:from], s.carry[:s.carried])
	data := buf[from:to]
	s.carried = 0
	for {
		at := bytes.Index(data, marker)
		if at < 0 {
			s.carried = copy(s.carry[:], data[max(0, len(data)-len(marker)+1):])
			return
		}
		rest := data[at+len(marker):]
		n, made, snapshot, ok := parseHead(rest)
		if !ok && len(data)-at < maxHead {
			s.carried = copy(s.carry[:], data[at:])
			return
		}
		if ok {
			t.note(s, n, made, now, snapshot)
		}
		data = rest
	}
}

// parseHead reads what follows a marker: a version and when it was made.
func parseHead(b []byte) (n, made int64, snapshot, ok bool) {
	if b, snapshot = bytes.CutPrefix(b, snapshotHead); !snapshot {
		if b, ok = bytes.CutPrefix(b, patchHead); !ok {
			return 0, 0, false, false
		}
	}
	if n, b, ok = parseNumber(b); ok {
		made, _, ok = parseNumber(b)
	}
	return n, made, snapshot, ok
}

// parseNumber reads digits up to a space.
func parseNumber(b []byte) (n int64, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == ' ' && i > 0:
			return n, b[i+1:], true
		case c < '0' || c > '9' || i > 19:
			return 0, nil, false
		}
		n = 10*n + int64(c-'0')
	}
	return 0, nil, false
}

// begin reads the first bytes of a response over HTTP/1.1 and returns where its body
// begins.
func (s *stream) begin(data []byte) (body int, gzipped bool) {
	s.answer = refused
	if bytes.HasPrefix(data, []byte("HTTP/1.1 200 ")) {
		s.answer = answered
	} else {
		s.end(false)
	}
	body = len(data)
	if at := bytes.Index(data, []byte("\r\n\r\n")); at >= 0 {
		body = at + len("\r\n\r\n")
	}
	if _, after, ok := bytes.Cut(data, []byte("\nretry: ")); ok {
		digits, _, _ := bytes.Cut(after, []byte("\n"))
		s.retry, _ = strconv.Atoi(string(digits))
	}
	return body, bytes.Contains(data[:body], []byte("\r\nContent-Encoding: gzip\r\n"))
}

// lastChunk is how a response over HTTP/1.1 ends.
var lastChunk = []byte("\r\n0\r\n\r\n")

// end notes that the stream is over.
func (s *stream) end(clean bool) {
	if s.ended == 0 {
		s.ended, s.clean = time.Now().UnixNano(), clean
	}
}
