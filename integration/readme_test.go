package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// blocks returns the code blocks of README.md in one language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	return blocksOf(t, "README.md", language)
}

// blocksOf returns the code blocks of a file of the documentation in one language, which
// is all that stands behind the block's ```; a pattern.
func blocksOf(t *testing.T, file, language string) (texts []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```(?:"+language+")\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		texts = append(texts, m[1])
	}
	if len(texts) == 0 {
		t.Fatalf("%s has no %s", file, language)
	}
	return texts
}

func TestREADMEAndReferenceAgree(t *testing.T) {
	code, err := os.ReadFile("../caddyfile.go")
	if err != nil {
		t.Fatal(err)
	}
	_, comment, _ := strings.Cut(string(code), "Syntax:\n//\n")
	comment, _, _ = strings.Cut(comment, "//\n")
	comment = strings.ReplaceAll(comment, "//\t", "")
	if got := blocks(t, "caddyfile-syntax")[0]; got != comment || len(comment) < 500 {
		t.Errorf("syntax in README.md:\n%s\nin caddyfile.go:\n%s", got, comment)
	}
	example := readExample(t)
	for _, m := range regexp.MustCompile(`(?m)^\t([a-z_]+) `).FindAllStringSubmatch(comment, -1) {
		if !strings.Contains(example, "# "+m[1]+" ") {
			t.Errorf("Caddyfile.example does not tell of %s", m[1])
		}
	}
}

func TestDocumentedCaddyfilesAreValid(t *testing.T) {
	startsProcesses(t)
	for _, file := range documents(t) {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "```caddyfile") {
			continue
		}
		for i, text := range blocksOf(t, file, "caddyfile(?: [a-z]+)?") {
			validate(t, fmt.Sprintf("%s, Caddyfile %d", file, i), text)
		}
	}
}

// documents returns the files of the documentation.
func documents(t *testing.T) (files []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		matches, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil || len(matches) == 0 {
			t.Fatalf("%s: %q, %v", pattern, matches, err)
		}
		for _, match := range matches {
			files = append(files, strings.TrimPrefix(filepath.ToSlash(match), "../"))
		}
	}
	return files
}

// validate expects that Caddy finds nothing wrong with a Caddyfile.
func validate(t *testing.T, name, text string) {
	t.Helper()
	c := &caddy{t: t, dir: t.TempDir()}
	file := filepath.Join(c.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.runArgs("validate", "--config", file, "--adapter", "caddyfile")
	<-c.exited
	if !c.process.ProcessState.Success() {
		t.Errorf("%s:\n%s\n%s", name, text, c.log)
	}
	if strings.Contains(c.log.String(), "not formatted") {
		t.Errorf("%s is not formatted:\n%s", name, text)
	}
}

// testFirstScreen runs the first Caddyfile and the first script of README.md as
// they stand there, but for addresses and the two seconds.
func testFirstScreen(t *testing.T, browser context.Context) {
	u := newUpstream(t, market(0))
	root := t.TempDir()
	page := "<!doctype html><title>README</title><script>\nfunction render(doc) { window.shown = doc }\n" + blocks(t, "js")[0] + "</script>"
	if err := os.WriteFile(filepath.Join(root, "index.html"), []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	c := startDocumented(t, port, "{\nadmin off\npersist_config off\n}\n"+blocks(t, "caddyfile")[0],
		"example.com {", site127(port), "localhost:9000", u.Listener.Addr().String(), "/srv/www", root,
		"poll_sse /api/*", "poll_sse /api/* {\ninterval 20ms\n}")
	tab := openTab(t, browser, fmt.Sprintf("http://localhost:%d/", newCutter(t, fmt.Sprintf("127.0.0.1:%d", port)).port()))
	for version := range 5 {
		u.set(market(version))
		c.eventually(fmt.Sprintf("version %d is rendered", version), func() bool {
			return evaluate[int](t, tab, `window.shown?.version ?? -1`) == version
		})
		if shown, want := evaluate[string](t, tab, `JSON.stringify(shown.prices)`), evaluate[string](t, tab, `JSON.stringify((`+market(version)+`).prices)`); shown != want {
			t.Errorf("version %d is shown as %.300s, want %.300s", version, shown, want)
		}
	}
}
