package jsondiff

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each pair of documents in testdata/pairs, in both directions, by both formats.
func TestPairs(t *testing.T) {
	names, err := filepath.Glob("testdata/pairs/*.json")
	if err != nil || len(names) != 3 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var pairs [][2]json.RawMessage
		if err := json.Unmarshal(text, &pairs); err != nil {
			t.Fatal(err)
		}
		densely(t, func(t *testing.T) {
			for _, p := range pairs {
				for range 2 {
					check(t, string(p[0]), string(p[1]))
					checkMerge(t, string(p[0]), string(p[1]))
					p[0], p[1] = p[1], p[0]
				}
			}
		})
	}
}

// pitfalls are the changes that differs are known to get wrong.
var pitfalls = [][2]string{
	{`{"id":9007199254740993}`, `{"id":9007199254740992}`},
	{`{"a":1e400,"b":1}`, `{"a":1e400,"b":2}`},
	{`[12]`, `[123]`},
	{`[12,1]`, `[123,1]`},
	{`{"a":12}`, `{"a":123}`},
	{`{"a":12}`, `{"a":12.0}`},
	{`{"a":1,"a":2}`, `{"a":9,"a":2}`},
	{`{"a":1,"a":2}`, `{"a":1,"a":3}`},
	{`{"a":1,"b":2}`, `{"a":1,"a":3}`},
	{`{"a":1,"b":2}`, `{"a":1,"b":2,"a":3}`},
	{`{"a":1,"b":2,"c":3}`, `{"c":3,"a":1,"b":2}`},
	{`{"a":1,"b":2,"c":3}`, `{"c":4,"a":1,"d":2}`},
	{`{"\u0061":1}`, `{"a":1,"\u0061":2}`},
	{`{"b":[{"\u0061":1}]}`, `{"b":[{"a":1,"\u0061":2}]}`},
	{`{"":{"a":1},"a":5}`, `{"":{"a":2},"a":5}`},
	{`{"a/b":1,"m~n":1,"~1":1,"q\"x":1,"\n":1,"\\":1,"\u0000":1}`, `{"a/b":2,"m~n":2,"~1":2,"q\"x":2,"\n":2,"\\":2,"\u0000":2}`},
	{`[1,1,2]`, `[1,2,2]`},
	{`["A","B"]`, `["C"]`},
	{`{"a":1}`, `{"a":null}`},
	{`{}`, `{"a":{"x":null,"y":1}}`},
	{`[{"id":1},{"id":1}]`, `[{"id":1},{"id":2},{"id":1}]`},
	{`[{"id":1,"v":1},{"id":"1","v":2}]`, `[{"id":"1","v":1},{"id":1,"v":2}]`},
	{`[{"id":1,"v":1},{"id":2,"v":2},{"id":3,"v":3},{"id":4,"v":4}]`, `[{"id":4,"v":4},{"id":1,"v":9},{"id":3,"v":3}]`},
	{"{\"a\": [1,\n 2]}", "{\"a\": [1,\r\n {\"b\" :\t3}]}"},
	{`{"__proto__":{"x":1}}`, `{"__proto__":2}`},
	{`{"-":1,"0":1}`, `{"-":2,"0":2}`},
	{`{"a":{"0":1}}`, `{"a":[1]}`},
	{`{"a":1}`, `[1]`}, {`[1]`, `null`}, {`null`, `0`}, {`0`, `"0"`}, {`"0"`, `{}`},
	{`[]`, `{}`}, {`[[]]`, `[{}]`}, {`{"a":[]}`, `{"a":{}}`},
	{`-0`, `0`}, {`1`, `1.0`}, {`1e2`, `100`},
}

func TestPitfalls(t *testing.T) {
	densely(t, func(t *testing.T) {
		for _, p := range pitfalls {
			filler := `,"filler":"` + strings.Repeat("x", 500) + `"`
			for range 2 {
				check(t, p[0], p[1])
				check(t, `{"v":`+p[0]+filler+`}`, `{"v":`+p[1]+filler+`}`)
				check(t, `[`+p[0]+`,{"f":1`+filler+`}]`, `[`+p[1]+`,{"f":1`+filler+`}]`)
				p[0], p[1] = p[1], p[0]
			}
		}
	})
}
