package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// prometheus runs a Prometheus that scrapes c until the test ends, and returns its
// address.
func prometheus(t *testing.T, c *caddy) string {
	t.Helper()
	program := program(t, "prometheus")
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, err := c.admin.Get("http://localhost/metrics")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
		io.Copy(w, response.Body)
	}))
	t.Cleanup(metrics.Close)
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	config := fmt.Sprintf("scrape_configs: [{job_name: caddy, scrape_interval: 1s, scrape_timeout: 1s, static_configs: [{targets: ['%s']}]}]\n", metrics.Listener.Addr())
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	process := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+dir, "--web.listen-address="+address)
	log := new(buffer)
	process.Stderr, process.Stdout = log, log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
		if t.Failed() {
			t.Logf("log of Prometheus:\n%s", log)
		}
	})
	eventually(t, "Prometheus is ready", func() bool {
		response, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return address
}

// query evaluates an expression, and returns how many series that has.
func query(t *testing.T, address, expression string) (series int, values string) {
	t.Helper()
	response, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(expression))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []struct{ Value []any } }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %v %s", expression, err, answer.Error)
	}
	for _, r := range answer.Data.Result {
		values += fmt.Sprint(r.Value[1], " ")
	}
	return len(answer.Data.Result), values
}

// Every query of the dashboard finds what it looks for in a real Prometheus that scrapes
// a real Caddy, in which everything that is counted has happened.
func TestDashboard(t *testing.T) {
	u := newUpstream(t, numbered(0))
	slow := newUpstream(t, "")
	slow.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `[%q,%d]`, strings.Repeat("a", 1<<20), time.Now().UnixNano())
	})
	c := start(t, "handle /api/slow {\n"+slow.site("interval 10ms\nhistory 1")+"\n}\n"+u.site("interval 20ms\nmax_views 1\nmax_pollers 2\nhistory 1\nselectable /n"))
	server := prometheus(t, c)
	c.next(c.open("h2", "/api/n", "")) // and stays

	text, err := os.ReadFile("../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct{ List []struct{ Definition string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	expressions := make(map[string]string) // by title
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expression := strings.NewReplacer("$server", ".*", "$__rate_interval", "30s", " or vector(0)", "").Replace(target.Expr)
			if strings.Contains(expression, "$") || target.LegendFormat == "" {
				t.Errorf("%s: %s, %q", p.Title, expression, target.LegendFormat)
			}
			expressions[p.Title+", "+target.LegendFormat] = expression
			for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if by := regexp.MustCompile(`sum by \([^)]*\b` + label[1] + `\b`); !by.MatchString(expression) {
					t.Errorf("%s: %s has no label %s", p.Title, expression, label[1])
				}
			}
		}
	}
	if len(expressions) < 20 {
		t.Fatalf("only %d queries", len(expressions))
	}
	for _, v := range dashboard.Templating.List {
		if name, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			expressions["variable "+v.Definition] = strings.TrimSuffix(name, ", server)")
		}
	}

	// Whatever happens goes on happening, so that each rate has something to see.
	stop := make(chan struct{})
	done := make(chan struct{})
	defer func() { close(stop); <-done }()
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			if n%10 == 1 {
				u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
				time.Sleep(100 * time.Millisecond)
			}
			u.set(numbered(n))
			for _, path := range []string{"/api/n", "/api/n?sse_select=/n", fmt.Sprint("/api/n?", n)} { // the second is refused, the third needs room
				if s, err := c.connect("h2", path, ""); err == nil {
					c.tryNext(s)
					s.close()
				}
			}
			c.longPoll("h2", "/api/n", 0, "")
			if n%20 == 1 { // reads nothing at first
				if s, err := c.connect("h1", "/api/slow", ""); err == nil {
					time.Sleep(300 * time.Millisecond)
					for range 5 {
						c.tryNext(s)
					}
					s.close()
				}
			}
		}
	}()
	// For some seconds after a scrape that has failed a gauge has no value.
	missing := maps.Clone(expressions)
	answered := func(_, expression string) bool {
		n, values := query(t, server, expression)
		return n > 0 && !strings.Contains(values, "NaN")
	}
	for deadline := time.Now().Add(2 * patience); len(missing) > 0; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("without an answer: %q", missing)
		}
		maps.DeleteFunc(missing, answered)
	}
	if _, values := query(t, server, expressions["Saved, saved"]); values == "" || strings.Contains(values, "Inf") {
		t.Errorf("saved: %q", values)
	}
}
