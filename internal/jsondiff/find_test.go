package jsondiff

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// findText has a value at the end of most pointers of findable.
const findText = `{"a":[{"id":1,"n":10},{"id":"2","n":20,"id2":true},7,{"id":1,"n":30},{"id":"x/y]=","n":40},[{"id":1}]],` +
	`"":{"":0},"[id=1]":"member","01":null,"m~n":{"a/b":"é"},"~1":6,"\u0078":5,"s":"[]","c":[{"id":{}},{"id":[1]},{"id":null},{"id":"\u0041"}]}`

// findable says what pointers find in findText, "" for nothing.
var findable = map[string]string{
	"":                    findText,
	"/a/0/n":              "10",
	"/a/2":                "7",
	"/a/[id=1]/n":         "10",
	"/a/[id=2]/n":         "20",
	"/a/[n=30]":           `{"id":1,"n":30}`,
	"/a/[id2=true]/n":     "20",
	"/a/[id=x~1y]=]/n":    "40",
	"/a/5/[id=1]/id":      "1",
	"//":                  "0",
	"/":                   `{"":0}`,
	"/[id=1]":             `"member"`,
	"/01":                 "null",
	"/m~0n/a~1b":          `"é"`,
	"/~01":                "6",
	"/x":                  "5",
	"/a/6":                "",
	"/a/-":                "",
	"/a/-1":               "",
	"/a/01":               "",
	"/a/+1":               "",
	"/a/[id=3]":           "",
	"/a/[id=]":            "",
	"/a/[id]":             "",
	"/a/[=1]":             "",
	"/a/[":                "",
	"/a/[id=12":           "",
	"/a/0id=1]":           "",
	"/a/9999999999999999": "",
	"/a/2/x":              "",
	"/s/0":                "",
	"/b":                  "",
	"/c/[id={}]":          "",
	"/c/[id=[1]]":         "",
	"/c/[id=null]":        `{"id":null}`,
	"/c/[id=A]":           `{"id":"\u0041"}`,
	"/a/0/n/":             "",
}

func TestFind(t *testing.T) {
	for _, spaces := range []string{"", " "} {
		d := document(t, strings.ReplaceAll(findText, ":", spaces+":"+spaces))
		for pointer, want := range findable {
			got, ok := d.Find(pointer)
			if string(got) != want || ok != (want != "") {
				t.Errorf("%q: %s, %v", pointer, got, ok)
			}
		}
	}
}

// Whatever can be found is found, with and without an index, and nothing else.
func TestFindRandomly(t *testing.T) {
	randomly(t, 2_000, func(t *testing.T, r texts, n int) {
		for range n {
			d := document(t, r.pick(r.value(4), r.keyed()))
			root, err := oracle.Value(d.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				var pointer strings.Builder
				for range r.IntN(4) {
					pointer.WriteString("/" + r.pick("0", "1", "2", "3", "a", "id", "", "a~1b", "-", "[id=1]", "[id=a]", "[a=true]", fmt.Sprintf("[id=%d]", r.IntN(8))))
				}
				want, there := oracle.Find(root, pointer.String())
				got, ok := d.Find(pointer.String())
				if ok != there {
					t.Fatalf("%s in %s: found %v, want %v", pointer.String(), d.Bytes(), ok, there)
				}
				if value, _ := oracle.Value(got); ok && !reflect.DeepEqual(value, want) {
					t.Fatalf("%s in %s: %s", pointer.String(), d.Bytes(), got)
				}
			}
		}
	})
}

func TestWithout(t *testing.T) {
	const text = `{"a":{"t":1,"u":2},"l":[{"t":1},2,{"t":3,"x":[]}],"t":4,"":5,"m~n/":6}`
	for patterns, want := range map[string]string{
		"":                      text,
		"/none":                 text,
		"/t":                    `{"a":{"t":1,"u":2},"l":[{"t":1},2,{"t":3,"x":[]}],"":5,"m~n/":6}`,
		"/*/t":                  `{"a":{"u":2},"l":[{"t":1},2,{"t":3,"x":[]}],"t":4,"":5,"m~n/":6}`,
		"/l/*/t":                `{"a":{"t":1,"u":2},"l":[{},2,{"x":[]}],"t":4,"":5,"m~n/":6}`,
		"/l/0":                  `{"a":{"t":1,"u":2},"l":[2,{"t":3,"x":[]}],"t":4,"":5,"m~n/":6}`,
		"/l/* /a/*":             `{"a":{},"l":[],"t":4,"":5,"m~n/":6}`,
		"/* ":                   `{}`,
		"/a /l /t / /m~0n~1":    `{}`,
		"/m~0n~1 /a/u /l/2/x":   `{"a":{"t":1},"l":[{"t":1},2,{"t":3}],"t":4,"":5}`,
		"/l/[t=3]/x /l/[t=1]":   `{"a":{"t":1,"u":2},"l":[2,{"t":3}],"t":4,"":5,"m~n/":6}`,
		"/[t=4] /a/[t=1]":       text,
		"/l/00 /l/-1 /l/9 /t/x": text,
	} {
		if got := document(t, text).Without(strings.Fields(patterns)); string(got) != want {
			t.Errorf("without %s: %s", patterns, got)
		}
	}
	if got := document(t, text).Without([]string{"/a", ""}); string(got) != "null" {
		t.Errorf("without the root: %s", got)
	}
}

func TestWithoutRandomly(t *testing.T) {
	randomly(t, 5_000, func(t *testing.T, r texts, n int) {
		for range n {
			d := document(t, r.pick(r.value(4), r.keyed()))
			root, err := oracle.Value(d.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			var patterns []string
			for range r.IntN(4) {
				pattern := ""
				for range 1 + r.IntN(3) {
					pattern += "/" + r.pick("0", "1", "a", "id", "*", "*", "", "a~1b")
				}
				patterns = append(patterns, pattern)
			}
			got, err := oracle.Value(d.Without(patterns))
			if err != nil || !reflect.DeepEqual(got, oracle.Without(root, patterns...)) {
				t.Fatalf("%s without %q: %v, %v", d.Bytes(), patterns, got, err)
			}
		}
	})
}
