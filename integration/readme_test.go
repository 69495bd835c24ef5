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
func blocks(t *testing.T, language string) (texts []string) {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		texts = append(texts, m[1])
	}
	if len(texts) == 0 {
		t.Fatalf("README.md has no %s", language)
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

func TestREADMECaddyfilesAreValid(t *testing.T) {
	if testing.Short() {
		t.Skip("integration tests start processes; -short leaves them out")
	}
	for i, text := range blocks(t, "caddyfile") {
		c := &caddy{t: t, dir: t.TempDir()}
		file := filepath.Join(c.dir, "Caddyfile")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.runArgs("validate", "--config", file, "--adapter", "caddyfile")
		<-c.exited
		if !c.process.ProcessState.Success() {
			t.Errorf("block %d:\n%s\n%s", i, text, c.log)
		}
		if strings.Contains(c.log.String(), "not formatted") {
			t.Errorf("block %d is not formatted:\n%s", i, text)
		}
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
