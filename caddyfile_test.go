package pollsse

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"golang.org/x/tools/txtar"
)

// archives reads the cases of a folder in testdata, of which there must be some.
func archives(t testing.TB, folder string) map[string]map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no cases in testdata/%s (%v)", folder, err)
	}
	cases := make(map[string]map[string]string)
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files := make(map[string]string)
		for _, f := range archive.Files {
			files[f.Name] = string(f.Data)
		}
		cases[strings.TrimSuffix(filepath.Base(name), ".txtar")] = files
	}
	return cases
}

// handlersOf adapts a Caddyfile of one site and returns the handlers of its routes.
func handlersOf(text string) (handlers [][]byte, err error) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	config, _, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, err
	}
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Handle []struct {
							Routes []struct{ Handle []json.RawMessage }
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(config, &parsed); err != nil {
		return nil, err
	}
	for _, server := range parsed.Apps.HTTP.Servers {
		for _, site := range server.Routes {
			for _, subroute := range site.Handle {
				for _, route := range subroute.Routes {
					for _, h := range route.Handle {
						handlers = append(handlers, h)
					}
				}
			}
		}
	}
	return handlers, nil
}

func nameOf(t *testing.T, handler []byte) string {
	t.Helper()
	var h struct{ Handler string }
	if err := json.Unmarshal(handler, &h); err != nil {
		t.Fatal(err)
	}
	return h.Handler
}

func TestCaddyfile(t *testing.T) {
	for name, files := range archives(t, "caddyfile") {
		t.Run(name, func(t *testing.T) {
			handlers, err := handlersOf(files["Caddyfile"])
			if want, ok := files["error"]; ok {
				for part := range strings.Lines(want) {
					if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(part)) {
						t.Errorf("error %v, want %s", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want, ok := files["order"]; ok {
				var names []string
				for _, h := range handlers {
					names = append(names, nameOf(t, h))
				}
				if !slices.Equal(names, strings.Fields(want)) {
					t.Errorf("order %v, want %s", names, want)
				}
				return
			}
			if got := string(bytes.Join(handlers, []byte("\n"))); got != strings.TrimSpace(files["JSON"]) {
				t.Errorf("JSON %s, want %s", got, files["JSON"])
			}
		})
	}
}

// The syntax in the doc comment, with its defaults, is the default configuration.
func TestSyntaxBlockSaysTheDefaults(t *testing.T) {
	h := new(Handler)
	h.setDefaults()
	text := `localhost
	poll_sse {
		interval 2s 2s
		timeout 10s
		linger 30s
		format patch
		select ""
		query *
		history 1000 8MiB
		heartbeat 15s
		retry 1s 4s
		drain 3s
		max_age 1h
		max_pollers 1000
		max_streams 100000
		max_views 32
		max_body 16MiB
		compress gzip
	}`
	handlers, err := handlersOf(text)
	if err != nil {
		t.Fatal(err)
	}
	explicit := new(Handler)
	if err := json.Unmarshal(handlers[0], explicit); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(explicit)
	want, _ := json.Marshal(h)
	if string(got) != string(want) {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func FuzzCaddyfile(f *testing.F) {
	seeds := 0
	for _, files := range archives(f, "caddyfile") {
		// Caddy takes the matcher away before the handler sees it.
		f.Add(strings.Replace(files["Caddyfile"], "poll_sse /api/* {", "poll_sse {", 1))
		seeds++
	}
	if seeds < 20 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, text string) {
		block, ok := strings.CutPrefix(text, "localhost\n")
		if !ok || strings.Contains(text, "import") || strings.Contains(text, "{$") {
			return
		}
		tokens, err := caddyfile.Tokenize([]byte(block), "Caddyfile")
		if err != nil {
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			return
		}
		// What the Caddyfile accepts, JSON accepts and keeps.
		config, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		again := new(Handler)
		if err := json.Unmarshal(config, again); err != nil {
			t.Fatal(err)
		}
		h.setDefaults()
		again.setDefaults()
		if err := again.check(); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		if utf8.ValidString(text) && !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v becomes %+v", h, again)
		}
	})
}
