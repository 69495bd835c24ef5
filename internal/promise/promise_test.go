package promise

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// Documents of a history in which the first comes back.
var history = []string{`{"n":1}`, `{"n":2}`, ` {"n" : 2}`, `{"n":1}`, `[3]`, `{"n":4,"i":0}`, `{"n":4,"i":1}`}

// at is the i-th state of the history, as a snapshot.
func at(i int, id string) sse.Event {
	states := []string{`{"n":1}`, `{"n":2}`, `{"n":1}`, `[3]`, `{"n":4,"i":0}`, `{"n":4,"i":1}`}
	return sse.Event{ID: id, Data: `[{"op":"replace","path":"","value":` + states[i] + `}]`}
}

func n(value int, id string) sse.Event {
	return sse.Event{ID: id, Data: fmt.Sprintf(`[{"op":"replace","path":"/n","value":%d}]`, value)}
}

// idOf makes an id of a log named by a letter.
func idOf(log rune, seq int, digest string) string {
	return fmt.Sprintf("%c0123456789-%d-%s-digest-00", log, seq, digest)
}

func TestClient(t *testing.T) {
	a := func(seq int, digest string) string { return idOf('a', seq, digest) }
	b := func(seq int, digest string) string { return idOf('b', seq, digest) }
	tests := map[string]struct {
		good   bool
		unseen int
		events []sse.Event
	}{
		"every state":                     {true, 0, []sse.Event{at(0, a(0, "1")), n(2, a(1, "2")), n(1, a(2, "1")), at(3, a(3, "3"))}},
		"a snapshot of a later state":     {true, 0, []sse.Event{at(0, a(0, "1")), at(3, a(3, "3"))}},
		"recognised in another log":       {true, 0, []sse.Event{at(0, a(0, "1")), n(2, b(1, "2"))}},
		"recognised as it was again":      {true, 0, []sse.Event{at(0, a(0, "1")), at(3, b(3, "3"))}},
		"a snapshot from another log":     {true, 0, []sse.Event{at(1, a(1, "2")), at(1, b(0, "2"))}},
		"the last state":                  {true, 0, []sse.Event{at(5, a(5, "5"))}},
		"a state that nobody saw":         {true, 1, []sse.Event{at(1, a(0, "2")), at(3, a(1, "3"))}},
		"no snapshot":                     {false, 0, []sse.Event{n(2, a(1, "2"))}},
		"a state left out":                {false, 0, []sse.Event{at(1, a(0, "2")), at(4, a(1, "4"))}},
		"a patch for another state":       {false, 0, []sse.Event{at(1, a(1, "2")), at(5, a(2, "5"))}},
		"the same again":                  {false, 0, []sse.Event{at(0, a(0, "1")), at(0, a(0, "1"))}},
		"the same with another number":    {false, 0, []sse.Event{at(1, a(1, "2")), at(1, a(2, "2"))}},
		"back":                            {false, 0, []sse.Event{at(3, a(3, "3")), at(0, b(0, "1"))}},
		"a state that never was":          {false, 0, []sse.Event{at(0, a(0, "1")), n(7, a(1, "7"))}},
		"a patch that does not apply":     {false, 0, []sse.Event{at(3, a(3, "3")), n(4, a(4, "4"))}},
		"no id":                           {false, 0, []sse.Event{at(0, "")}},
		"one digest for two documents":    {false, 0, []sse.Event{at(0, a(0, "1")), n(2, a(1, "1"))}},
		"one number for two documents":    {false, 0, []sse.Event{at(0, a(0, "1")), n(2, a(1, "2")), at(3, b(0, "3")), at(4, a(1, "4"))}},
		"another log that lacks the next": {false, 0, []sse.Event{at(1, a(1, "2")), n(4, b(4, "4"))}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := New()
			for _, text := range history {
				o.Answer("poller", text)
			}
			c := o.NewClient()
			c.Follow("poller", "patch", "")
			var err error
			for i, e := range test.events {
				if err != nil {
					t.Fatalf("event %d: %v", i, err)
				}
				err = c.Event(e)
			}
			if (err == nil) != test.good {
				t.Errorf("got %v", err)
			}
			if got := o.Unseen(); got != test.unseen {
				t.Errorf("%d states unseen, want %d", got, test.unseen)
			}
			if last := test.events[len(test.events)-1].Data == at(5, "").Data; c.IsUpToDate() != (last && test.good) {
				t.Error("up to date", c.IsUpToDate())
			}
		})
	}
}

func TestClientsOfParts(t *testing.T) {
	o := New("/i")
	for _, text := range history {
		o.Answer("poller", text)
	}
	full := func(log rune, data string) sse.Event {
		return sse.Event{ID: idOf(log, len(data), data[:1]), Data: data}
	}
	c := o.NewClient()
	c.Follow("poller", "full", "/n")
	if err := c.Event(full('n', "2")); err != nil {
		t.Error(err)
	}
	if err := c.Event(full('n', "null")); err != nil {
		t.Error(err)
	}
	if err := c.Event(full('n', "5")); err == nil {
		t.Error("5 never was")
	}
	c.Follow("poller", "full", "")
	if err := c.Event(full('f', `{"n":4,"i":1}`)); err != nil || !c.IsUpToDate() {
		t.Errorf("one of two that differ in what is ignored: %v", err)
	}
	c.Follow("stranger", "full", "")
	if err := c.Event(full('s', `{"n":4, "i":1}`)); err == nil {
		t.Error("another's document")
	}
}

// The documents of a walk are JSON, change, and are again what they were.
func TestWalk(t *testing.T) {
	w := NewWalk(rand.New(rand.NewPCG(1, 2)), "name")
	seen := make(map[sum]int)
	texts := make(map[string]bool)
	again := 0
	for i := range 300 {
		text := w.String()
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		texts[text] = true
		s := newDocument(v).sum
		if last, ok := seen[s]; ok && last < i-1 {
			again++
		}
		seen[s] = i
		w.Step()
	}
	if len(seen) < 200 || again < 5 || len(texts) <= len(seen) {
		t.Errorf("%d values in %d texts, %d came back", len(seen), len(texts), again)
	}
}
