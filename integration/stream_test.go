package integration

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// filler makes documents large enough for patches to pay.
var filler = strings.Repeat("lorem ipsum ", 40)

func numbered(n int) string { return fmt.Sprintf(`{"n":%d,"filler":%q}`, n, filler) }

// apply brings doc forward by an event of a patch stream.
func apply(t *testing.T, doc any, patch string) any {
	t.Helper()
	doc, err := oracle.Apply(doc, []byte(patch))
	if err != nil {
		t.Fatalf("applying %.300s: %v", patch, err)
	}
	return doc
}

func value(t *testing.T, text string) any {
	t.Helper()
	v, err := oracle.Value([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestStream(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms"))
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			u.set(numbered(0))
			s := c.open(protocol, "/api/x?stream="+protocol, "")
			if got := s.response.Header.Get("Cache-Control"); got != "no-store, no-transform" {
				t.Errorf("Cache-Control %q", got)
			}
			var doc any
			for n := range 5 {
				e := c.next(s)
				doc = apply(t, doc, e.Data)
				if want := value(t, numbered(n)); !reflect.DeepEqual(doc, want) {
					t.Fatalf("after event %s: %v, want %v", e.ID, doc, want)
				}
				if n > 0 && e.Data != fmt.Sprintf(`[{"op":"replace","path":"/n","value":%d}]`, n) {
					t.Errorf("patch %s", e.Data)
				}
				u.set(numbered(n + 1))
			}
		})
	}
}

func applyTo(doc any, patch string) (any, error) { return oracle.Apply(doc, []byte(patch)) }

// numberIn returns the member n of a numbered document.
func numberIn(doc any) int {
	object, _ := doc.(map[string]any)
	number, _ := object["n"].(json.Number)
	n, err := number.Int64()
	if err != nil {
		return -1
	}
	return int(n)
}
