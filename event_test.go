package pollsse

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

func TestEventIDRoundTrip(t *testing.T) {
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	for _, id := range wireIDs {
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

// wireIDs are ids at the edges of their form.
var wireIDs = []eventID{{}, {1, 2, 3}, {1<<64 - 1, 1<<64 - 1, 1<<64 - 1}, {0, 36, 1 << 63}}

// idForm is the form of an id, but for how large its sequence number may be. The last
// character of a word has four bits of it.
var idForm = regexp.MustCompile(`^[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]-(0|[1-9a-z][0-9a-z]*)-[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]$`)

func FuzzLastEventID(f *testing.F) {
	if len(badEventIDs) == 0 || len(wireIDs) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range badEventIDs {
		f.Add(s)
	}
	for _, id := range wireIDs {
		f.Add(id.String())
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := false
		if m := idForm.FindStringSubmatch(s); m != nil {
			seq, ok := new(big.Int).SetString(m[1], 36)
			want = ok && seq.IsUint64()
		}
		id, ok := parseEventID(s)
		if ok != want {
			t.Errorf("parseEventID(%q): %v", s, ok)
		}
		if ok && id.String() != s {
			t.Errorf("parseEventID(%q) reads another spelling of %v", s, id)
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

// wireData are documents of all lengths that make a difference on the wire.
func wireData() [][]byte {
	return [][]byte{
		[]byte(`{}`), []byte(`"\u2028é"`), []byte(`{"a":["b,[{\"","\\",1.50e+2,null]}`), long(60 << 10), long(70 << 10), long(500 << 10),
		[]byte(`["` + strings.Repeat("x", 100<<10) + `",` + strings.Repeat("1,", 40<<10) + `2]`),
		bytes.Repeat([]byte("1"), 100<<10),
	}
}

func TestEventsSurviveTheWire(t *testing.T) {
	for _, data := range wireData() {
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

// message is an event as a page gets it.
type message struct{ eventType, data, lastEventID string }

// dispatched reads a stream as browsers do (WHATWG HTML §9.2.6), whatever ends its lines.
func dispatched(stream []byte) (messages []message) {
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(stream)), "\n")
	var m message
	for _, line := range lines[:len(lines)-1] { // a line that has no end is not read
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if m.data != "" {
				m.data = strings.TrimSuffix(m.data, "\n")
				messages = append(messages, m)
			}
			m = message{lastEventID: m.lastEventID}
		case field == "data":
			m.data += value + "\n"
		case field == "event":
			m.eventType = value
		case field == "id" && !strings.Contains(value, "\x00"):
			m.lastEventID = value
		}
	}
	return messages
}

// What is sent is what a page gets, once, and only when all of it is there, also where
// the bytes of a connection that broke come first.
func FuzzEvent(f *testing.F) {
	seeds := 0
	for _, data := range wireData() {
		if len(data) > 1000 { // the fuzzer makes long ones of short ones
			continue
		}
		for i := range 60 {
			id := wireIDs[i%len(wireIDs)]
			f.Add([]string{"", "price"}[i%2], data, id.epoch, id.seq, id.digest, i > 4, i)
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, eventType string, data []byte, epoch, seq, digest uint64, long bool, cut int) {
		var compact bytes.Buffer
		if json.Compact(&compact, data) != nil || eventType != "" && !validEventType(eventType) {
			return
		}
		text := compact.Bytes()
		if n := len(text); long && n < 1000 { // a document of several lines
			text = fmt.Appendf(nil, "[%q,%s%s]", strings.Repeat("x", int(uint(cut)%60)), strings.Repeat(string(text)+",", maxLine/n), text)
		}
		id := eventID{epoch, seq, digest}
		frame := appendEvent(nil, eventType, text, id)

		strict := sse.NewReader(bytes.NewReader(frame))
		e, err := strict.Next()
		if err != nil || e.Type != eventType || e.ID != id.String() {
			t.Fatalf("event %q with id %q: %v", e.Type, e.ID, err)
		}
		if _, err := strict.Next(); err != io.EOF {
			t.Fatalf("after the event: %v", err)
		}
		if say(e.Data) != string(text) {
			t.Fatalf("%q came as %q", text, e.Data)
		}

		lines := strings.Split(e.Data, "\n")
		for _, line := range lines[:len(lines)-1] {
			if !strings.ContainsAny(line[len(line)-1:], ",[{") {
				t.Fatalf("%q is cut after %q", text, line)
			}
		}

		want := []message{{eventType, e.Data, id.String()}}
		stream := append(appendPreamble(nil, time.Second), frame...)
		if got := dispatched(append(stream, heartbeat...)); !slices.Equal(got, want) {
			t.Fatalf("%q is dispatched as %q", frame, got)
		}
		broken := frame[:uint(cut)%uint(len(frame))]
		if got := dispatched(broken); len(got) != 0 {
			t.Fatalf("%q is dispatched as %q", broken, got)
		}
		glued := append(appendResynchronisation(slices.Clone(broken), id.String(), time.Second), frame...)
		got := slices.DeleteFunc(dispatched(glued), func(m message) bool { return m.eventType == "_" && eventType != "_" })
		if eventType != "_" && !slices.Equal(got, want) {
			t.Fatalf("%q is dispatched as %q", glued, got)
		}
	})
}

// say returns JSON text without white space.
func say(text string) string {
	var b bytes.Buffer
	if json.Compact(&b, []byte(text)) != nil {
		return ""
	}
	return b.String()
}

func TestPreambles(t *testing.T) {
	id := eventID{1, 2, 3}.String()
	for _, c := range []struct{ got, want string }{
		{string(appendPreamble(nil, 2317*time.Millisecond)), ":\nretry: 2317\n"},
		{string(appendResynchronisation(nil, id, time.Second)), ":\nid: " + id + "\nevent: _\n\nretry: 1000\n"},
		{string(appendResynchronisation(nil, "", time.Second)), ":\nid: \nevent: _\n\nretry: 1000\n"},
		{string(appendResynchronisation(nil, "evil", time.Second)), ":\nevent: _\n\nretry: 1000\n"},
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
