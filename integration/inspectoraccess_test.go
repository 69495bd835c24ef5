package integration

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

var screenshots = flag.String("screenshots", "", "a `directory` for pictures of the inspector")

// focused says what has the focus.
const focused = `(e => e.id || e.name || e.textContent)(document.activeElement)`

// testInspectorKeyboard goes through the page without a mouse.
func testInspectorKeyboard(t *testing.T, browser context.Context) {
	i := inspect(t, browser, `{"a":1,"list":[{"b":2},3],"z":[`+strings.Repeat("0,", 249)+`0]}`, "interval 50ms", "")
	press := func(keys, want string) {
		t.Helper()
		i.keys(keys)
		if got := inPage[string](i, focused); got != want {
			t.Fatalf("after %q the focus is on %q, want %q", keys, got, want)
		}
		if !inPage[bool](i, `getComputedStyle(document.activeElement).outlineStyle !== 'none'`) {
			t.Errorf("after %q nothing shows where the focus is", keys)
		}
	}
	press(kb.Tab, "url")
	press("/api/doc"+kb.Tab, "format")
	press(kb.Tab, "select")
	press(kb.Tab, "event")
	press(kb.Tab, "Follow")
	press(kb.Enter, "Follow")
	i.eventually("the tree is there", func() bool { return strings.Contains(i.text("#tree"), "250 items") })
	press(kb.Tab, "cut")
	press(kb.Tab, "pick")
	press(kb.Tab, "document3 members")
	press(kb.ArrowDown, "a1")
	press(kb.ArrowRight, "a1")
	press(kb.ArrowDown, "list2 items")
	press(kb.ArrowRight, "01 member")
	press(kb.ArrowRight, "b2")
	press(kb.ArrowLeft, "01 member")
	press(kb.ArrowLeft, "01 member")
	if got := inPage[string](i, `document.activeElement.ariaExpanded`); got != "false" {
		t.Errorf("after it is closed it has aria-expanded=%s", got)
	}
	press(kb.Enter, "01 member")
	press(kb.ArrowDown, "b2")
	press(kb.End, "z250 items")
	press(kb.ArrowRight, "z250 items")
	press(kb.End, "Show 100 more of 150")
	press(kb.Enter, "1000")
	press(kb.ArrowUp, "990")
	press(kb.Home, "document3 members")
	press(kb.End, "Show 50 more of 50")
	press(" ", "2000")

	// What has the focus goes away with its list.
	i.set(`{"a":1,"list":[{"b":2},3],"z":[0]}`)
	i.eventually("the list is short", func() bool { return strings.Contains(i.text("#tree"), "1 item") })
	press(kb.ArrowUp, "13") // the second item of list, above z
	press(kb.Tab, "pause")
	press(kb.Tab, "events")
	back := func(want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(i.tab, patience)
		defer cancel()
		if err := chromedp.Do(ctx, chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift))); err != nil {
			t.Fatal(err)
		}
		press("", want)
	}
	back("pause")
	back("13")
	back("pick")
	press(kb.Enter, "select")
	if got := inPage[string](i, `document.activeElement.value`); got != "/list/1" {
		t.Errorf("selected is %q", got)
	}
	press(kb.Tab+kb.Tab+kb.Tab+kb.Enter, "cut")
	i.status("Cut")
	press(kb.Enter, "cut")
	i.status("Connected")
	press(kb.Tab+kb.Tab+kb.Tab+" ", "pause")
	if got := inPage[string](i, `document.activeElement.ariaPressed`); got != "true" {
		t.Errorf("the list is paused: %s", got)
	}
}

// testInspectorAccessibility lets axe-core look at each state of the page, in both themes.
func testInspectorAccessibility(t *testing.T, browser context.Context) {
	axe := npmFile(t, "axe-core", "4.14.1", "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==", "axe.min.js")
	u := newUpstream(t, market(0))
	c := start(t, u.site("inspect /inspect\nretry 1s 1s\ninterval 500ms")+"\nrespond /broken 502")
	i := &inspection{c, u, newCutter(t, filepath.Join(c.dir, "h1")), nil}
	i.openTab(browser, "")
	check := func(state string) {
		t.Helper()
		if inPage[bool](i, `!window.axe`) {
			evaluate[any](t, i.tab, axe+"; true")
		}
		i.eventually("nothing flashes", func() bool { return inPage[bool](i, `document.getAnimations().length === 0`) })
		for _, theme := range []string{"light", "dark"} {
			i.do(fmt.Sprintf(`document.documentElement.style.colorScheme = %q
				window.found = undefined
				axe.run().then(r => found = [r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join('; ')), r.passes.length])`, theme))
			i.eventually("axe is done", func() bool { return inPage[bool](i, `found !== undefined`) })
			if got := inPage[[]string](i, `found[0]`); len(got) > 0 {
				t.Errorf("%s, %s: %s", state, theme, strings.Join(got, "\n"))
			}
			if n := inPage[int](i, `found[1]`); n < 15 {
				t.Errorf("%s, %s: only %d rules were looked at", state, theme, n)
			}
		}
		i.look(state)
	}
	check("form")
	i.do(`$('[name=url]').value = '/api/doc'; $('form').requestSubmit()`)
	i.status("Connected")
	for version := range 12 {
		i.set(market(version))
		i.eventually("the version arrives", func() bool { return strings.Contains(i.text("#tree"), fmt.Sprintf(`"version %d"`, version)) })
	}
	i.do(`$$('#events button').slice(0, 2).forEach(b => b.click())`)
	check("live")
	i.do(`$$('.row, .note').forEach(e => e.style.background = 'var(--flash)')`)
	check("flashing")
	i.do(`$$('.row, .note').forEach(e => e.style.background = '')`)
	i.setAnswer(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) })
	i.eventually("the upstream is stale", func() bool { return strings.HasPrefix(i.text("#upstream"), "stale") })
	check("stale")
	i.click("#pause")
	i.click("#cut")
	i.status("Cut")
	check("cut")
	i.do(`$('[name=select]').value = '/nothing'; $('form').requestSubmit()`)
	i.status("Refused")
	check("refused")
	i.do(`$('[name=url]').value = '/broken'; $('form').requestSubmit()`)
	i.status("No stream")
	check("lost")
}

// testInspectorReducedMotion looks at the page of someone who does not want things to move.
func testInspectorReducedMotion(t *testing.T) {
	i := inspect(t, startBrowser(t, chromedp.Flag("force-prefers-reduced-motion", true)), `{"a":1}`, "interval 20ms", "?url=/api/doc")
	i.showsDocument(`{"a":1}`)
	i.do(watchFlashes)
	i.set(`{"a":2}`)
	i.showsDocument(`{"a":2}`)
	if got := inPage[string](i, `flashed.map(f => f.colours).join()`); got != "var(--flash),var(--flash)" {
		t.Errorf("the change is shown by the colours %q", got)
	}
}

// testInspectorForcedColors looks whether the tree can be read where the system's colours
// replace those of the page.
func testInspectorForcedColors(t *testing.T) {
	i := inspect(t, startBrowser(t, chromedp.Flag("force-high-contrast", true)), `{"a":[1]}`, "interval 20ms", "?url=/api/doc")
	i.showsDocument(`{"a":[1]}`)
	if !inPage[bool](i, `matchMedia('(forced-colors: active)').matches`) {
		t.Fatal("no colours are forced")
	}
	const sides = `(s => [s.borderTopColor === 'rgba(0, 0, 0, 0)', s.borderLeftColor === getComputedStyle($('.row')).color].join())(getComputedStyle($('.row'), '::before'))`
	if got := inPage[string](i, sides); got != "true,true" {
		t.Errorf("what shows that a row is open is no triangle: %s", got)
	}
	if got := inPage[string](i, `getComputedStyle($('.row[tabindex="0"]')).outlineStyle`); got != "dotted" {
		t.Errorf("the row that the keyboard acts on has the outline %s", got)
	}
}

// look goes through both themes and three widths, in none of which the page may be wider
// than its window, and takes pictures if they are wanted.
func (i *inspection) look(state string) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.tab, 3*patience)
	defer cancel()
	resize := func(width, height int64) {
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, height)); err != nil {
			i.t.Fatal(err)
		}
	}
	for _, theme := range []string{"light", "dark"} {
		i.do(fmt.Sprintf(`document.documentElement.style.colorScheme = %q`, theme))
		for _, width := range []int64{360, 800, 1440} {
			resize(width, 900)
			if got := inPage[int64](i, `document.documentElement.scrollWidth`); got > width {
				i.t.Errorf("%s: the page is %d pixels wide in a window of %d", state, got, width)
			}
			if *screenshots == "" {
				continue
			}
			resize(width, min(max(900, inPage[int64](i, `document.documentElement.scrollHeight`)), 2400))
			picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
			if err != nil {
				i.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(*screenshots, fmt.Sprintf("%s-%s-%d.png", state, theme, width)), picture, 0o600); err != nil {
				i.t.Fatal(err)
			}
		}
	}
}
