package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestClientModuleInFrameworks runs the examples of docs/client.md in Chromium, each with
// its framework.
func TestClientModuleInFrameworks(t *testing.T) {
	needs(t, "node")
	browser := startBrowser(t)
	t.Run("None", func(t *testing.T) { testPlainPage(t, browser) })
	t.Run("Svelte", func(t *testing.T) { testSvelte(t, browser) })
	t.Run("React", func(t *testing.T) { testReact(t, browser) })
	t.Run("Vue", func(t *testing.T) { testVue(t, browser) })
	t.Run("SWR", func(t *testing.T) { testSWR(t, browser) })
}

// fruit returns a version of the document in those examples.
func fruit(version int) string {
	return fmt.Sprintf(`{"prices":[{"id":1,"name":"apples","price":3},{"id":2,"name":"pears","price":%d}%s],"filler":%q}`,
		version, strings.Repeat(`,{"id":3,"name":"plums","price":0.5}`, version%2), filler)
}

// fruitLines are what the examples show of it.
func fruitLines(version int) []string {
	lines := []string{"apples 3", fmt.Sprint("pears ", version)}
	if version%2 == 1 {
		lines = append(lines, "plums 0.5")
	}
	return lines
}

// showsFruit waits until a page shows each version, and looks for errors in it.
func showsFruit(t *testing.T, u *upstream, tab context.Context, lines string) {
	t.Helper()
	t.Cleanup(func() {
		if errors := evaluate[[]string](t, tab, `globalThis.errors ?? []`); len(errors) > 0 {
			t.Errorf("errors in the page: %q", errors)
		}
	})
	for version := range 5 {
		u.set(fruit(version))
		eventually(t, fmt.Sprintf("version %d is shown", version), func() bool {
			return slices.Equal(evaluate[[]string](t, tab, lines), fruitLines(version))
		})
	}
}

const itemLines = `[...document.querySelectorAll('li')].map(li => li.textContent)`

// testPlainPage runs the Caddyfile and the page without a framework.
func testPlainPage(t *testing.T, browser context.Context) {
	u := newUpstream(t, fruit(0))
	root, port := t.TempDir(), freePort(t)
	writeFiles(t, root, map[string]string{"index.html": "<!doctype html>" + clientDoc(t, "html plain")})
	startDocumented(t, port, "{\nadmin off\npersist_config off\n}\n"+clientDoc(t, "caddyfile"),
		"example.com {", site127(port), "localhost:9000", u.Listener.Addr().String(), "/srv/www", root,
		"client /poll_sse.js", "client /poll_sse.js\ninterval 20ms")
	tab := openTab(t, browser, fmt.Sprintf("http://localhost:%d/", newCutter(t, fmt.Sprintf("127.0.0.1:%d", port)).port()))
	showsFruit(t, u, tab, `document.querySelector('ul').innerText.split('\n')`)
	if got := evaluate[string](t, tab, `document.querySelector('p').innerText + ', ' + document.title`); got != "The first costs 3, live" {
		t.Errorf("the page says %q", got)
	}
}

// framework opens a page that imports modules by name, with the client module among them.
func framework(t *testing.T, browser context.Context, imports, files map[string]string, script string) (*caddy, *upstream, context.Context) {
	t.Helper()
	imports["@pollsse/client"] = "/poll_sse.js"
	for name, path := range imports {
		if _, ok := files[path]; !ok && path != "/poll_sse.js" {
			t.Fatalf("%s is to be at %s", name, path)
		}
	}
	importMap, err := json.Marshal(map[string]any{"imports": imports})
	if err != nil {
		t.Fatal(err)
	}
	files["/"] = `<!doctype html><title>An example</title><link rel="icon" href="data:,"><div id="app"></div>
		<script>globalThis.errors = []; addEventListener('error', e => errors.push(e.message)); addEventListener('unhandledrejection', e => errors.push(String(e.reason)))</script>
		<script type="importmap">` + string(importMap) + `</script>
		<script type="module">const app = document.querySelector('#app')` + "\n" + script + `</script>`
	u := newUpstream(t, fruit(0))
	c := start(t, u.site("interval 20ms\nclient /poll_sse.js"))
	return c, u, openTab(t, browser, serve(t, c, files))
}

// npmFiles adds the files of a package to those of a page.
func npmFiles(t *testing.T, files map[string]string, folder, name, version, sum string) {
	t.Helper()
	unpack(t, npmTarball(t, name, version, sum), func(path string, content []byte) { files[folder+path] = string(content) })
}

// leaves lets a component go, which has to end its connection.
func leaves(t *testing.T, c *caddy, tab context.Context) {
	t.Helper()
	if n := c.metric("caddy_poll_sse_streams"); n != 1 {
		t.Errorf("%d streams", n)
	}
	evaluate[bool](t, tab, `leave(), true`)
	c.eventually("its stream has ended", func() bool { return c.metric("caddy_poll_sse_streams") == 0 })
}

const (
	svelte    = "5.57.3"
	svelteSum = "5mAftM3SoDV9X0zdF386F9p2pv8iKOwi/KfBS1XnBAkVCKFzVOLHUoa8iGWAt4buoicLmyWVRpuuD5wplXOQsg=="
)

func testSvelte(t *testing.T, browser context.Context) {
	dir := t.TempDir()
	npmPackage(t, dir, "svelte", svelte, svelteSum)
	writeFiles(t, dir, map[string]string{"App.svelte": clientDoc(t, "svelte")})
	files := map[string]string{
		"/app.js": runNode(t, dir, `console.log(require('./node_modules/svelte/compiler').compile(fs.readFileSync('App.svelte', 'utf8'), { generate: 'client', name: 'App' }).js.code)`),
		"/env.js": "export const BROWSER = true, DEV = false, NODE = false",
	}
	npmFiles(t, files, "/svelte/", "svelte", svelte, svelteSum)
	npmFiles(t, files, "/clsx/", "clsx", "2.1.1", "eYm0QWBtUrBWZWG0d386OGAw16Z995PiOVo2B7bjWSbHedGl5e0ZWaq65kOGgUSNesEIDkB9ISbTg/JK9dhCZA==")
	c, u, tab := framework(t, browser, map[string]string{
		"svelte":                           "/svelte/src/index-client.js",
		"svelte/internal/client":           "/svelte/src/internal/client/index.js",
		"svelte/internal/disclose-version": "/svelte/src/internal/disclose-version.js",
		"svelte/internal/flags/legacy":     "/svelte/src/internal/flags/legacy.js",
		"svelte/store":                     "/svelte/src/store/index-client.js",
		"svelte/reactivity":                "/svelte/src/reactivity/index-client.js",
		"#client/constants":                "/svelte/src/internal/client/constants.js",
		"esm-env":                          "/env.js",
		"clsx":                             "/clsx/dist/clsx.mjs",
	}, files, `
		import { mount, unmount } from 'svelte'
		import App from '/app.js'
		const prices = mount(App, { target: app })
		globalThis.leave = () => unmount(prices)`)
	showsFruit(t, u, tab, itemLines)
	leaves(t, c, tab)
}

// runNode returns what a script prints.
func runNode(t *testing.T, dir, script string) string {
	t.Helper()
	node := exec.Command("node", "-e", script)
	node.Dir = dir
	out, err := node.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, err.(*exec.ExitError).Stderr)
	}
	return string(out)
}

// fromJSX returns what TypeScript makes of a script with JSX.
func fromJSX(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	npmPackage(t, dir, "typescript", typescript, typescriptSum)
	writeFiles(t, dir, map[string]string{"in.jsx": script})
	return runNode(t, dir, `
		const ts = require('typescript'), { ESNext } = ts.ModuleKind
		console.log(ts.transpile(fs.readFileSync('in.jsx', 'utf8'), { jsx: ts.JsxEmit.ReactJSX, module: ESNext, target: ts.ScriptTarget.ESNext }, 'in.jsx'))`)
}

// fromCommonJS returns an ES module with the exports of a CommonJS one that requires others.
func fromCommonJS(text string, required ...string) string {
	var b strings.Builder
	for i, name := range required {
		fmt.Fprintf(&b, "import m%d from '%s'\n", i, name)
	}
	b.WriteString("const module = { exports: {} }, required = {\n")
	for i, name := range required {
		fmt.Fprintf(&b, "'%s': m%d,\n", name, i)
	}
	fmt.Fprintf(&b, "};\n(function (module, exports, require) {\n%s\n})(module, module.exports, name => required[name])\nexport default module.exports\n", text)
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^\s*exports\.([a-zA-Z]+) =`).FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		fmt.Fprintf(&b, "export const { %[1]s } = module.exports\n", name)
	}
	return b.String()
}

// reactFiles are React, and by which names it is imported.
func reactFiles(t *testing.T) (imports, files map[string]string) {
	t.Helper()
	const (
		react    = "QNhWdt7nrgVWWQG58QuGsAR3jv3Hbe4mb4vz7w2csnHavciZJgda1CPNaldF6eVxv90ud3jUXpKlHL69gO38yw=="
		reactDOM = "Y0bARz53lhEC1NMCASs0/j+faB/zqt3R8hpvg1e8+61ZVJ4UL0UdC4cBbXfZMcIuhrfgeILTLe+ZeBCavQPtKQ=="
	)
	return map[string]string{
			"react": "/react.js", "react/jsx-runtime": "/jsx.js", "react-dom": "/dom.js", "react-dom/client": "/client.js", "scheduler": "/scheduler.js",
		}, map[string]string{
			"/react.js":     fromCommonJS(npmFile(t, "react", "19.3.1", react, "cjs/react.production.js")),
			"/jsx.js":       fromCommonJS(npmFile(t, "react", "19.3.1", react, "cjs/react-jsx-runtime.production.js")),
			"/dom.js":       fromCommonJS(npmFile(t, "react-dom", "19.3.1", reactDOM, "cjs/react-dom.production.js"), "react"),
			"/client.js":    fromCommonJS(npmFile(t, "react-dom", "19.3.1", reactDOM, "cjs/react-dom-client.production.js"), "react", "react-dom", "scheduler"),
			"/scheduler.js": fromCommonJS(npmFile(t, "scheduler", "0.28.0", "juorfCmIkIw8tT+p5BXSm6PJjQF/ycEYmKyzURCIt/RaZIhL+PulbQ9Yu2z1HdOJDdqDTlxA1+xKBmHXJsczAw==", "cjs/scheduler.production.js")),
		}
}

func testReact(t *testing.T, browser context.Context) {
	imports, files := reactFiles(t)
	files["/prices.js"] = fromJSX(t, clientDoc(t, "jsx react"))
	files["/renders.js"] = fromJSX(t, `
		import { memo, useSyncExternalStore } from 'react'
		import { live } from '@pollsse/client'

		const prices = live('/api/prices'), first = prices.select('/prices/0')
		globalThis.renders = {}
		const count = name => { renders[name] = (renders[name] ?? 0) + 1 }
		const Item = memo(({ item }) => count(item.name))
		export function All() {
			const doc = useSyncExternalStore(prices.subscribe, () => prices.value)
			return doc?.prices.map(item => <Item key={item.id} item={item} />)
		}
		export function First() {
			if (useSyncExternalStore(first.subscribe, () => first.value)) count('first')
		}`)
	_, u, tab := framework(t, browser, imports, files, `
		import { createElement } from 'react'
		import { createRoot } from 'react-dom/client'
		import { Prices } from '/prices.js'
		import { All, First } from '/renders.js'
		createRoot(app).render(createElement(Prices))
		for (const component of [All, First]) createRoot(document.createElement('div')).render(createElement(component))`)
	showsFruit(t, u, tab, itemLines)
	want := map[string]int{"apples": 1, "pears": 5, "plums": 2, "first": 1}
	eventually(t, "what has changed is rendered, and nothing else", func() bool { return maps.Equal(evaluate[map[string]int](t, tab, `renders`), want) })
}

func testVue(t *testing.T, browser context.Context) {
	c, u, tab := framework(t, browser, map[string]string{"vue": "/vue.js"}, map[string]string{
		"/vue.js":  npmFile(t, "vue", "3.5.45", "3cvsib8m9c0vB24+MDKsgcW4+Da4xaBl9Z/5Tbm2pmSIsRPxcil4cdXjXlVsmJ2g64XJo5h+IRd7rsdGT9pZaw==", "dist/vue.esm-browser.prod.js"),
		"/live.js": clientDoc(t, "js vue"),
	}, `
		import { createApp } from 'vue'
		import { useLive } from '/live.js'
		const prices = createApp({
			setup: () => ({ doc: useLive('/api/prices') }),
			template: '<li v-for="item in doc?.prices" :key="item.id">{{ item.name }} {{ item.price }}</li>',
		})
		prices.mount(app)
		globalThis.leave = () => prices.unmount()`)
	showsFruit(t, u, tab, itemLines)
	leaves(t, c, tab)
}

func testSWR(t *testing.T, browser context.Context) {
	imports, files := reactFiles(t)
	npmFiles(t, files, "/swr/", "swr", "2.5.1", "BRw55e8r0B7SpDN20CAzoQAHl7y1yP7/Zt7oqUjMv0vSt2u2Xnkm88Ws+VypbV9BXHQVuSuyVq7zMjO16wSExw==")
	imports["swr/subscription"] = "/swr/dist/subscription/index.mjs"
	imports["use-sync-external-store/shim"] = "/shim.js"
	imports["dequal/lite"] = "/dequal.js"
	files["/dequal.js"] = npmFile(t, "dequal", "2.0.3", "0je+qPKHEMohvfRTCEo3CrPG6cAzAYgmzKyxRiYSSDkS6eGJdyVJm7WaYA5ECaAD9wLB2T4EEeymA5aFVcYXCA==", "lite/index.mjs")
	files["/shim.js"] = fromCommonJS(npmFile(t, "use-sync-external-store", "1.7.0", "6L+EeigHMQhdaIPNIFUKwfWJSwWFQ8gJbJ2DLOs5sDIegTwR9fRxvnM3uciHKjIZhFz+KAv2emhWMRvDmMcY8A==",
		"cjs/use-sync-external-store-shim.production.js"), "react")
	files["/prices.js"] = fromJSX(t, clientDoc(t, "jsx swr"))
	c, u, tab := framework(t, browser, imports, files, `
		import { createElement } from 'react'
		import { createRoot } from 'react-dom/client'
		import { Prices } from '/prices.js'
		const root = createRoot(app)
		root.render([createElement(Prices, { key: 1 }), createElement('ol', { key: 2 }, createElement(Prices))])
		globalThis.leave = () => root.render(null)`)
	showsFruit(t, u, tab, `[...document.querySelectorAll('#app > li')].map(li => li.textContent)`)
	leaves(t, c, tab)
}
