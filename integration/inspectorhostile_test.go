package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// testInspectorHostile shows documents of somebody who would like to run a script.
func testInspectorHostile(t *testing.T, browser context.Context) {
	const image, script = `<img src=x onerror="window.hacked = 1">`, `</script><script>window.hacked = 1</script>`
	document := func(n int) string {
		text, err := json.Marshal(map[string]any{
			"n": n, image: image, script: []any{script, fmt.Sprint(script, n)},
			"__proto__": map[string]any{"polluted": n, "toString": image}, "constructor": map[string]any{"prototype": map[string]any{"polluted": n}},
			"hasOwnProperty": n, "": map[string]any{"": n}, "a/b~c~1": n, "\u202egnp.exe": "\u2028\u0000\u202e", "length": n,
			fmt.Sprint("__defineGetter__", n%2): n, "filler": strings.Repeat(filler, 40),
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	without := func(n int) string { return strings.Replace(document(n), `"__proto__"`, `"__other__"`, 1) }
	for _, format := range []string{"patch", "full", "merge"} {
		i := inspect(t, browser, document(0), "interval 20ms", "?url=/api/doc&format="+format)
		for n := range 4 {
			i.set(document(n))
			i.showsDocument(document(n))
			i.set(without(n))
			i.showsDocument(without(n))
		}
		if inPage[bool](i, `'hacked' in window || 'polluted' in {}`) {
			t.Errorf("%s: the document has run a script, or changed all objects", format)
		}
		if got := inPage[string](i, `[...new Set($$('main *').map(e => e.localName))].sort().join(' ')`); got != allowedElements {
			t.Errorf("%s: the page has %s", format, got)
		}
	}
}

const allowedElements = "b button code dd div dl dt figcaption figure h2 li ol p path rect section span svg template time ul"

// testInspectorLarge shows what would freeze a page that shows all of it.
func testInspectorLarge(t *testing.T, browser context.Context) {
	items := make([]string, 50_000)
	document := func(n int) string {
		for k := range items {
			items[k] = fmt.Sprintf(`{"id":%d,"value":%d}`, k, k*(1+n%2*(k%1000/999)))
		}
		return fmt.Sprintf(`{"n":%d,"long":%q,"%s":1,"items":[%s]}`, n, strings.Repeat("0123456789", 200_000)+fmt.Sprint(n), strings.Repeat("name", 50_000), strings.Join(items, ","))
	}
	for _, format := range []string{"patch", "full"} {
		i := inspect(t, browser, document(0), "interval 500ms", "?url=/api/doc&format="+format)
		i.eventually("the document arrives", func() bool { return strings.Contains(i.text("#tree"), "50,000 items") })
		i.do(`window.slowest = 0; let last = performance.now()
			setInterval(() => { const now = performance.now(); slowest = Math.max(slowest, now - last); last = now }, 0)`)
		for _, name := range []string{"long", "items"} {
			i.do(fmt.Sprintf(`$$('.row').find(row => row.firstChild.textContent === %q).click()`, name))
		}
		for range 3 {
			i.do(`$$('.more > .row').forEach(row => row.click())`)
		}
		for n := range 4 {
			i.set(document(n))
			i.eventually("the version arrives", func() bool {
				return strings.Contains(inPage[string](i, `$('#tree [role=group] .value').textContent`), fmt.Sprint(n))
			})
		}
		if n := inPage[int](i, `$$('*').length`); n > 6000 {
			t.Errorf("%s: the page has %d elements", format, n)
		}
		slowest := inPage[float64](i, `slowest`)
		t.Logf("%s: the page was busy for %.0f ms at most", format, slowest)
		if slowest > 10_000 {
			t.Errorf("%s: the page was frozen for %.0f ms", format, slowest)
		}
		if got := inPage[string](i, `$('#tree').textContent`); len(got) > 500_000 {
			t.Errorf("%s: the tree has %d characters", format, len(got))
		}
	}
}
