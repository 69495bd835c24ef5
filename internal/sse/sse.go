// Package sse reads event streams for tests, more strictly than a browser: beside
// what WHATWG HTML §9.2.6 says, it holds a stream to what this project promises
// about the order of lines and the blocks it never sends.
package sse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Event is one dispatched event.
type Event struct {
	ID   string
	Type string // "" for an unnamed message
	Data string
	Size int // bytes on the wire
}

// Reader reads one stream.
type Reader struct {
	lines    *bufio.Reader
	Retry    time.Duration // the last one seen
	Comments int
	// WebKit allows the block without data that is sent to WebKit only.
	WebKit bool
}

// NewReader returns a reader of the stream r.
func NewReader(r io.Reader) *Reader { return &Reader{lines: bufio.NewReaderSize(r, 64<<10)} }

// Next returns the next event. At the stream's end it returns io.EOF, in the middle
// of a block io.ErrUnexpectedEOF with the lines that came, and otherwise what it found
// wrong.
func (r *Reader) Next() (Event, error) {
	var e Event
	var data []string
	var closed bool // by the id
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			if err == io.EOF && (len(data) > 0 || line != "") {
				err = io.ErrUnexpectedEOF
			}
			e.Data = strings.Join(data, "\n")
			return e, err
		}
		e.Size += len(line)
		line = strings.TrimSuffix(line, "\n")
		if strings.ContainsAny(line, "\r\x00") {
			return e, fmt.Errorf("control character in line %q", line)
		}
		if line == "" {
			if len(data) == 0 && r.WebKit && e.Type == "_" {
				e, closed = Event{}, false
				continue
			}
			notice := e.Type == "status" || e.Type == "ping"
			if len(data) == 0 || closed == notice {
				return e, errors.New("block without data or id, or notice with an id")
			}
			e.Data = strings.Join(data, "\n")
			return e, nil
		}
		if closed && !r.WebKit {
			return e, fmt.Errorf("line after the id: %q", line)
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "":
			if len(data) > 0 {
				return e, errors.New("comment inside a block")
			}
			r.Comments++
			e.Size = 0
		case "retry":
			ms, err := strconv.Atoi(value)
			if err != nil || len(data) > 0 {
				return e, fmt.Errorf("bad retry %q", line)
			}
			r.Retry = time.Duration(ms) * time.Millisecond
			e.Size = 0
		case "data":
			if e.Type != "" {
				return e, errors.New("data after the event type")
			}
			if len(line)+1 > 64<<10 && len(data) > 0 && strings.ContainsAny(value[:len(value)/2], ",[{") {
				return e, fmt.Errorf("line of %d bytes", len(line))
			}
			data = append(data, value)
		case "event":
			e.Type = value
		case "id":
			e.ID, closed = value, true
		default:
			return e, fmt.Errorf("unknown field in line %q", line)
		}
	}
}
