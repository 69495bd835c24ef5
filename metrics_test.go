package pollsse

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// total returns what a counter with that value of a label has counted, or a gauge holds.
func total(t *testing.T, c prometheus.Collector, label string) (n float64) {
	t.Helper()
	for labels, value := range series(t, c) {
		if strings.Contains(labels, `"`+label+`"`) {
			n += value
		}
	}
	return n
}

// series returns the values of a collector by name and labels.
func series(t *testing.T, collectors ...prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collectors...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, l := range m.Label {
				name += fmt.Sprintf(" %s=%q", l.GetName(), l.GetValue())
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// documented returns, out of the table in the docs, the values of each metric's labels.
func documented(t *testing.T) map[string]map[string][]string {
	t.Helper()
	text, err := os.ReadFile("docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics := make(map[string]map[string][]string)
	row := regexp.MustCompile("(?m)^\\| `(caddy_poll_sse_[a-z_]+)` \\| (counter|gauge|histogram) \\| (.*?) \\|")
	label := regexp.MustCompile("`([a-z]+)`: ([^;]*)")
	value := regexp.MustCompile("`([a-z0-9_]+)`")
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		labels := make(map[string][]string)
		for _, l := range label.FindAllStringSubmatch(m[3], -1) {
			values := []string{}
			for _, v := range value.FindAllStringSubmatch(l[2], -1) {
				values = append(values, v[1])
			}
			labels[l[1]] = values
		}
		metrics[m[1]+" "+m[2]] = labels
	}
	return metrics
}

// The table in the docs has all metrics with their types and labels, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	got := make(map[string][]string)
	for _, c := range collectors {
		kind := "counter"
		switch c.(type) {
		case *prometheus.GaugeVec:
			kind = "gauge"
		case *prometheus.HistogramVec:
			kind = "histogram"
		}
		descriptions := make(chan *prometheus.Desc, 1)
		c.Describe(descriptions)
		text := (<-descriptions).String()
		parts := regexp.MustCompile(`fqName: "([^"]+)", .*variableLabels: \{([^}]*)\}`).FindStringSubmatch(text)
		if parts == nil {
			t.Fatal(text)
		}
		labels := slices.DeleteFunc(strings.Split(parts[2], ","), func(l string) bool { return l == "server" })
		got[parts[1]+" "+kind] = slices.Sorted(slices.Values(labels))
	}
	want := make(map[string][]string)
	for name, labels := range documented(t) {
		want[name] = slices.Sorted(maps.Keys(labels))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("metrics\n%v\nin the docs\n%v", got, want)
	}
	code := ""
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && !strings.HasSuffix(file, "_test.go") && file != "metrics.go" {
			code += string(text)
		}
	}
	for name, labels := range documented(t) {
		for label, values := range labels {
			for _, value := range values {
				if label != "status" && !strings.Contains(code, `"`+value+`"`) || len(values) < 2 {
					t.Errorf("no %s has %s=%q", name, label, value)
				}
			}
		}
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collectors...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// checkLabels looks for labels that the docs do not know.
func checkLabels(t *testing.T, seen map[string]float64) {
	t.Helper()
	docs := make(map[string]map[string][]string)
	for name, labels := range documented(t) {
		name, _, _ = strings.Cut(name, " ")
		docs[name] = labels
	}
	label := regexp.MustCompile(` ([a-z]+)="([^"]*)"`)
	for one := range seen {
		name, _, _ := strings.Cut(one, " ")
		for _, l := range label.FindAllStringSubmatch(one, -1) {
			if l[1] != "server" && l[2] != "" && !slices.Contains(docs[name][l[1]], l[2]) {
				t.Errorf("the docs do not tell of %s with %s=%q", name, l[1], l[2])
			}
		}
	}
}

// All that can happen to a resource and its streams is counted as what it is.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := series(t, collectors...)
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second), MaxPollers: 1, MaxViews: 2, Selectable: []string{"/n"}, History: history{Events: 2}, Linger: caddy.Duration(time.Minute)})
		expect := func(what string, want map[string]float64) {
			t.Helper()
			synctest.Wait()
			now := series(t, collectors...)
			for name, value := range now {
				if now[name] = value - before[name]; now[name] == 0 || strings.Contains(name, "bytes") {
					delete(now, name)
				}
			}
			before = series(t, collectors...)
			short := make(map[string]float64)
			for name, value := range now {
				name = strings.TrimPrefix(name, "caddy_poll_sse_")
				short[strings.NewReplacer(` server=""`, "", ` cause=""`, "", `"`, "").Replace(name)] = value
			}
			if fmt.Sprint(short) != fmt.Sprint(want) {
				t.Errorf("%s:\n%v, want\n%v", what, short, want)
			}
		}
		plain := s.get(s.h, "/")
		expect("a stream", map[string]float64{
			"streams": 1, "resources state=live": 1, "polls_total result=changed": 1, "poll_duration_seconds": 1,
			"resumes_total outcome=new": 1, "events_total encoding=identity format=patch": 1,
		})
		zipped := s.get(s.h, "/?sse_format=full", "Accept-Encoding", "gzip")
		expect("another one", map[string]float64{"streams": 1, "resumes_total outcome=new": 1, "events_total encoding=gzip format=full": 1})
		for n := range 3 {
			s.setAnswer(answering(fmt.Sprintf(`{"n":%d}`, n+10)))
			s.waitForPolls(1)
		}
		expect("three changes, of which two are kept", map[string]float64{
			"polls_total result=changed": 3, "poll_duration_seconds": 3, "evictions_total kind=event": 1,
			"events_total encoding=identity format=patch": 3, "events_total encoding=gzip format=full": 3,
		})
		id := plain.events()[2].ID
		zipped.leave()
		expect("one has left", map[string]float64{"streams": -1, "stream_ends_total reason=client_left": 1})
		third := s.get(s.h, "/?sse_select=/n")
		expect("its view gives way", map[string]float64{"streams": 1, "resumes_total outcome=new": 1, "evictions_total kind=view": 1, "events_total encoding=identity format=patch": 1})
		refused := s.get(s.h, "/?sse_select=/n&sse_format=full")
		expect("no view can", map[string]float64{"refusals_total limit=max_views": 1})
		back := s.get(s.h, "/", "Last-Event-ID", id)
		expect("one comes back", map[string]float64{"streams": 1, "resumes_total outcome=held": 1, "events_total encoding=identity format=patch": 1})
		turnedAway := s.get(s.h, "/other")
		expect("no resource can give way", map[string]float64{"refusals_total limit=max_pollers": 1})
		s.setAnswer(answering(`<html>`))
		s.waitForPolls(1)
		expect("a bad answer", map[string]float64{"resources state=live": -1, "resources state=stale": 1, "polls_total cause=invalid result=rejected": 1, "poll_duration_seconds": 1})
		s.setAnswer(status(http.StatusBadGateway))
		s.waitForPolls(1)
		expect("no answer", map[string]float64{"polls_total cause=status result=failed": 1, "poll_duration_seconds": 1})
		for _, c := range []*client{plain, third, back} {
			c.leave()
		}
		expect("all have left", map[string]float64{"streams": -3, "stream_ends_total reason=client_left": 3})
		s.setAnswer(answering(`[]`))
		other := s.get(s.h, "/other")
		expect("the resource gives way", map[string]float64{
			"streams": 1, "resources state=stale": -1, "resources state=live": 1, "evictions_total kind=resource": 1, "polls_total result=changed": 1, "poll_duration_seconds": 1,
			"resumes_total outcome=new": 1, "events_total encoding=identity format=patch": 1,
		})
		s.h.beginDrain()
		time.Sleep(time.Duration(s.h.Drain))
		<-other.done
		if n := total(t, streamEndsTotal, endDrain) - before[`caddy_poll_sse_stream_ends_total reason="drain" server=""`]; n != 1 {
			t.Errorf("%v streams have drained", n)
		}
		checkLabels(t, series(t, collectors...))
		s.close(plain, zipped, third, refused, back, turnedAway, other)
	})
}

// What is written to clients is what is counted, to the byte, however it is written.
func TestBytesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second), MaxAge: caddy.Duration(30 * time.Second), Heartbeat: caddy.Duration(2 * time.Second)})
		document := `{"text":"` + strings.Repeat("long ", 30_000) + `"}`
		s.setAnswer(answering(document))
		plain, zipped, polling := total(t, sentBytesTotal, "identity"), total(t, sentBytesTotal, "gzip"), total(t, pollingBytesTotal, "")
		clients := []*client{s.get(s.h, "/?sse_status"), s.get(s.h, "/", "Accept-Encoding", "gzip")}
		synctest.Wait()
		s.waitForPolls(5)
		if n := total(t, pollingBytesTotal, "") - polling; n != float64(5*2*len(document)) {
			t.Errorf("polling would have cost %v bytes, want %d", n, 5*2*len(document))
		}
		s.setAnswer(answering(document + " "))
		for _, c := range clients {
			<-c.done
		}
		plain, zipped = total(t, sentBytesTotal, "identity")-plain, total(t, sentBytesTotal, "gzip")-zipped
		if int(plain) != len(clients[0].text()) || int(zipped) != len(clients[1].text()) || plain < 10*zipped {
			t.Errorf("counted %v and %v bytes, written %d and %d", plain, zipped, len(clients[0].text()), len(clients[1].text()))
		}
		s.close(clients...)
	})
}
