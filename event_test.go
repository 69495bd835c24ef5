package pollsse

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

func TestEventIDRoundTrip(t *testing.T) {
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	for _, id := range []eventID{{}, {1, 2, 3}, {1<<64 - 1, 1<<64 - 1, 1<<64 - 1}, {0, 36, 1 << 63}} {
		text := id.String()
		if !form.MatchString(text) || !strings.Contains(text, "-") {
			t.Errorf("id %q", text)
		}
		if got, ok := parseEventID(text); !ok || got != id {
			t.Errorf("parseEventID(%q) = %v, %v; want %v", text, got, ok, id)
		}
	}
}

// badEventIDs are what clients send that never came from us.
var badEventIDs = []string{
	"", "0", "42", "-", "--", "\x00", "Qm7fK2xVw0A-0-", "Qm7fK2xVw0A--JaocOu1x9bM", "Qm7fK2xVw0A-0-JaocOu1x9bN",
	"Qm7fK2xVw0A-00-JaocOu1x9bM", "Qm7fK2xVw0A-A-JaocOu1x9bM", "Qm7fK2xVw0A-+1-JaocOu1x9bM", "Qm7fK2xVw0A-3w5e11264sgsg-JaocOu1x9bM",
	"Qm7fK2xVw0A 0 JaocOu1x9bM", strings.Repeat("A", 1<<20), "Qm7fK2xVw!A-0-JaocOu1x9bM", "Qm7fK2xVw0A-0-JaocOu1x9bM ",
}

func FuzzLastEventID(f *testing.F) {
	for _, s := range badEventIDs {
		f.Add(s)
	}
	f.Add(eventID{1, 2, 3}.String())
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseEventID(s)
		if ok != (id.String() == s) && ok {
			t.Errorf("parseEventID(%q) accepts another spelling of %v", s, id)
		}
		if !ok && id != (eventID{}) && id.String() == s {
			t.Errorf("parseEventID(%q) refuses an id", s)
		}
	})
}

func TestBadEventIDs(t *testing.T) {
	for _, s := range badEventIDs {
		if id, ok := parseEventID(s); ok || id != (eventID{}) {
			t.Errorf("parseEventID(%.80q) = %v", s, id)
		}
	}
}

// long is a document of many lines' length, with every kind of place to cut at or
// not to.
func long(n int) []byte {
	return []byte(`[` + strings.Repeat(`{"a,[{\"":"b,[{\\","c":[1,2]},`, n/30) + `null]`)
}

func TestEventsSurviveTheWire(t *testing.T) {
	for _, data := range [][]byte{
		[]byte(`{}`), []byte(`"\u2028é"`), long(60 << 10), long(70 << 10), long(500 << 10),
		[]byte(`["` + strings.Repeat("x", 100<<10) + `",` + strings.Repeat("1,", 40<<10) + `2]`),
		bytes.Repeat([]byte("1"), 100<<10),
	} {
		for _, eventType := range []string{"", "price"} {
			id := eventID{1, 2, 3}
			frame := appendEvent(nil, eventType, data, id)
			r := sse.NewReader(bytes.NewReader(frame))
			e, err := r.Next()
			if err != nil {
				t.Fatalf("%d bytes: %v", len(data), err)
			}
			var got bytes.Buffer
			if err := json.Compact(&got, []byte(e.Data)); err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d bytes came as %d other ones (%v)", len(data), got.Len(), err)
			}
			if e.ID != id.String() || e.Type != eventType || e.Size != len(frame) {
				t.Errorf("event %q %q of %d bytes", e.ID, e.Type, e.Size)
			}
			if lines := bytes.Count(frame, []byte("data:")); len(data) < 64000 && lines != 1 {
				t.Errorf("%d bytes are split into %d lines", len(data), lines)
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("after the event: %v", err)
			}
		}
	}
}

func TestLinesAreShortWhereTheyCanBe(t *testing.T) {
	for line := range bytes.Lines(appendEvent(nil, "", long(1<<20), eventID{})) {
		if len(line) > maxLine {
			t.Errorf("line of %d bytes", len(line))
		}
	}
}

func FuzzEvent(f *testing.F) {
	f.Add("price", []byte(`{"a":"b"}`))
	f.Add("", long(100<<10))
	f.Fuzz(func(t *testing.T, eventType string, data []byte) {
		var compact bytes.Buffer
		if json.Compact(&compact, data) != nil || eventType != "" && !validEventType(eventType) {
			return
		}
		e, err := sse.NewReader(bytes.NewReader(appendEvent(nil, eventType, compact.Bytes(), eventID{}))).Next()
		if err != nil || e.Type != eventType {
			t.Fatalf("event %q: %v", e.Type, err)
		}
		var got bytes.Buffer
		if err := json.Compact(&got, []byte(e.Data)); err != nil || !bytes.Equal(got.Bytes(), compact.Bytes()) {
			t.Fatalf("%q came as %q", compact.Bytes(), e.Data)
		}
	})
}

func TestPreambles(t *testing.T) {
	id := eventID{1, 2, 3}.String()
	for _, c := range []struct{ got, want string }{
		{string(appendPreamble(nil, 2317*time.Millisecond)), ":\nretry: 2317\n"},
		{string(appendResynchronisation(nil, id, time.Second)), ":\nid: " + id + "\nevent: _\n\nretry: 1000\n"},
		{string(appendResynchronisation(nil, "", time.Second)), ":\nid:\nevent: _\n\nretry: 1000\n"},
		{string(appendResynchronisation(nil, "evil", time.Second)), ":\nid:\nevent: _\n\nretry: 1000\n"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

func TestValidEventType(t *testing.T) {
	for name, want := range map[string]bool{
		"price": true, "a b": true, "": false, "open": false, "error": false, "message": false, "snapshot": false,
		"status": false, "ping": false, "a\nb": false, "a\rb": false, "a\x00": false, " a": false,
	} {
		if got := validEventType(name); got != want {
			t.Errorf("validEventType(%q) = %v", name, got)
		}
	}
}

// Wherever the cuts fall, they fall between tokens.
func TestLinesAreCutBetweenTokens(t *testing.T) {
	for shift := range 60 {
		data := append([]byte(`["`+strings.Repeat("x", shift)+`",`), long(70 << 10)[1:]...)
		e, err := sse.NewReader(bytes.NewReader(appendEvent(nil, "", data, eventID{}))).Next()
		if err != nil || !strings.Contains(e.Data, "\n") || !json.Valid([]byte(e.Data)) {
			t.Errorf("shifted by %d: %v", shift, err)
		}
	}
}
