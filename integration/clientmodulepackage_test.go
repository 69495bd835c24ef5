package integration

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// installClient puts the package into dir as npm would: the files that it names, and what
// npm always adds.
func installClient(t *testing.T, dir string) {
	t.Helper()
	var manifest struct {
		Name    string
		License string
		Files   []string
		Exports map[string]map[string]string
	}
	if err := json.Unmarshal([]byte(readClient(t, "package.json")), &manifest); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "node_modules", manifest.Name)
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(manifest.Files, "package.json", "README.md", "LICENSE") {
		if err := os.WriteFile(filepath.Join(to, name), []byte(readClient(t, name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range manifest.Exports["."] {
		if _, err := os.Stat(filepath.Join(to, target)); err != nil {
			t.Errorf("package.json exports what it does not have: %v", err)
		}
	}
	license, err := os.ReadFile("../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if readClient(t, "LICENSE") != string(license) || !strings.Contains(string(license), "Apache License") || manifest.License != "Apache-2.0" {
		t.Error("the package has another licence")
	}
}

// nodeUser prints what it sees of a document.
const nodeUser = `
	import { EventSource } from 'eventsource'
	import { live } from '@pollsse/client'
	globalThis.EventSource = EventSource
	const doc = live(process.argv[2], { onstatus: status => console.log(status) })
	doc.subscribe(v => {
		console.log(JSON.stringify(v), doc.id !== undefined)
		if (v.n === 2) doc.close() // and the process ends
	})
`

// TestClientModulePackage uses the package in Node.js, with an EventSource from npm.
func TestClientModulePackage(t *testing.T) {
	needs(t, "node")
	dir := t.TempDir()
	installClient(t, dir)
	npmPackage(t, dir, "eventsource", "4.1.1", "D6bTRWh6KahHTK/m4WnjPQyEinNPf9eFLEZSEoj7d6fTibspnAVYfzHvirL7u/aoX5d9YYfIkBVAhmigUELk9w==")
	npmPackage(t, dir, "eventsource-parser", "3.1.1", "EKN1vKAMcZ8MlYMpaNuxN6R9yakzH6uajHcHVTqWJzvu5pWw9DyhbP35HH8MVBQ+dZjAfDxk+A8NiR9KWaXiyQ==")
	writeFiles(t, dir, map[string]string{"user.mjs": nodeUser})
	u := newUpstream(t, `{"n":1}`)
	c := start(t, u.site("interval 20ms"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out := new(buffer)
	user := exec.CommandContext(ctx, "node", "user.mjs", serve(t, c, nil)+"api/doc")
	user.Dir, user.Stdout, user.Stderr = dir, out, out
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	c.eventually("the document arrives", func() bool { return strings.Contains(out.String(), "1") })
	u.set(`{"n":2}`)
	if err := user.Wait(); err != nil || out.String() != "live\n{\"n\":1} true\n{\"n\":2} true\nclosed\n" {
		t.Errorf("%v, printed:\n%s", err, out)
	}
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// typedUse uses the types well, and, in lines with an error that is expected, badly.
const typedUse = `
import { live, type Immutable, type Live, type Selection, type Status } from '@pollsse/client'
import { live as served } from '/poll_sse.js'

interface Market { prices: { id: string, price: number }[], updated?: string }
const market = live<Market>('/api/prices', { event: 'price', withCredentials: true, onstatus: s => { const status: Status = s } })
const same: Live<Market> = served<Market>(new URL('http://localhost/api/prices'))
const stop: () => void = market.subscribe(doc => { const price: number = doc.prices[0]!.price })
const value: Immutable<Market> | undefined = market.value
const id: string | undefined = market.id
const first = market.select(doc => doc.prices[0])
const price: number | undefined = first.value?.price
first.subscribe(item => { const price: number | undefined = item?.price })
const named: Selection<{ readonly id: string } | undefined> = market.select<{ id: string }>('/prices/0')
const sorted = market.value?.prices.toSorted((a, b) => a.price - b.price)
live('/api').subscribe(doc => { const unknown: unknown = doc })
live<any>('/api').value.anything
live<number[]>('/api').subscribe(doc => { const n: number | undefined = doc[0] })
live<string>('/api').subscribe(doc => doc.length)
if (market.status === 'stale') market.close()

// @ts-expect-error a document is not there at once
market.value.prices
// @ts-expect-error nor is a part
first.value.price
// @ts-expect-error
market.subscribe(doc => doc.price)
// @ts-expect-error
market.subscribe(doc => { doc.updated = 'now' })
// @ts-expect-error
market.subscribe(doc => { doc.prices.sort() })
// @ts-expect-error
market.subscribe(doc => { doc.prices[0]!.price = 1 })
// @ts-expect-error
market.value = { prices: [] }
// @ts-expect-error
market.status = 'live'
// @ts-expect-error
market.status === 'open'
// @ts-expect-error
market.select(3)
// @ts-expect-error
market.select(doc => doc.nothing)
// @ts-expect-error
live('/api', { headers: {} })
// @ts-expect-error
live()
// @ts-expect-error
live('/api').subscribe(doc => doc.anything)
// @ts-expect-error
market.subscribe()
`

const (
	typescript    = "5.9.3"
	typescriptSum = "jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw=="
)

// TestClientModuleTypes compiles good and bad uses, with the paths that docs/client.md has
// for the file that Caddy serves.
func TestClientModuleTypes(t *testing.T) {
	needs(t, "node")
	dir := t.TempDir()
	installClient(t, dir)
	npmPackage(t, dir, "typescript", typescript, typescriptSum)
	config := regexp.MustCompile(`\{ "paths"`).ReplaceAllString(clientDoc(t, "json"),
		`{ "noEmit": true, "strict": true, "noUncheckedIndexedAccess": true, "target": "esnext", "module": "nodenext", "lib": ["esnext", "dom"], "types": [], "paths"`)
	writeFiles(t, dir, map[string]string{"tsconfig.json": config, "use.mts": typedUse})
	tsc := exec.Command("node", "node_modules/typescript/lib/tsc.js")
	tsc.Dir = dir
	if out, err := tsc.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// clientDoc returns the only code block of docs/client.md in that language.
func clientDoc(t *testing.T, language string) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/client.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	if len(found) != 1 {
		t.Fatalf("docs/client.md has %d blocks of %s", len(found), language)
	}
	return found[0][1]
}
