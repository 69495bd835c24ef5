package integration

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// soak is a Caddy between restless documents and restless clients. What these do comes
// in storms; in the calm after each nothing changes or fails any longer, all clients
// are there, and what the process holds can be compared with what it held before.
type soak struct {
	*caddy
	soakCounts
	form      soakForm
	documents *restlessDocuments
	clients   []*soakClient
	shared    map[string][]*line // connections of several clients each, by protocol
	before    sample
	began     time.Time

	mu    sync.Mutex      // guards all below
	storm context.Context // ends when the calm begins
}

// soakForm is how large a soak is.
type soakForm struct {
	clients     int
	documents   int
	rests       int
	storminess  time.Duration // before each rest
	reloadEvery time.Duration // or earlier
	interval    time.Duration
}

var shortSoak = soakForm{
	clients: 200, documents: 10, rests: 4,
	storminess: 5 * time.Second / 2, reloadEvery: time.Second, interval: 100 * time.Millisecond,
}

func longSoak(length time.Duration) soakForm {
	f := soakForm{clients: 2000, documents: 50, reloadEvery: 20 * time.Second, interval: 500 * time.Millisecond}
	f.rests = int(min(max(length/(30*time.Second), 4), 20))
	f.storminess = max(length/time.Duration(f.rests)-10*time.Second, 5*time.Second) // the calm takes about that
	f.reloadEvery = min(f.reloadEvery, f.storminess/3)
	return f
}

// soakCounts are what has happened so far.
type soakCounts struct {
	streams, resumed, refused, events, answered, visits, cuts, stalls, reloads atomic.Int64
}

// What the process holds does not grow however long clients and upstream behave badly,
// and it is given back when the clients have left. Meanwhile no client is sent what is
// not for it, and whenever it is calm all clients have the newest version.
func TestSoak(t *testing.T) {
	s := &soak{form: shortSoak, shared: make(map[string][]*line)}
	if *long > 0 {
		s.form = longSoak(*long)
	}
	seed := seedOf(t)
	s.documents = newRestlessDocuments(seed)
	upstream := httptest.NewServer(s.documents)
	t.Cleanup(upstream.Close)
	// What passes over HTTP/3 has a body of unknown length, and reverse_proxy races with
	// itself over its trailers unless it reads that first.
	site := func(n int) string {
		return fmt.Sprintf(`poll_sse /api/* {
	interval %v
	timeout 1s
	linger 1s
	drain 1s
	heartbeat %ds
	history 20 64KiB
	max_body 1MiB
	max_views 24
	selectable /part /items/[id=*]
	forward_header X-Owner
}
reverse_proxy /api/* %s {
	request_buffers 4KiB
	transport http {
		keepalive 1s
	}
}`, s.form.interval, 10+n/2%2, upstream.Listener.Addr()) // now and then it is another configuration
	}
	s.caddy = start(t, site(0))
	s.useOnce(site(0))

	ctx, leave := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer leave()
	calm, begin := context.WithCancel(ctx)
	begin()
	s.setStorm(calm)
	for i := range s.form.clients {
		c := s.newClient(seed, i)
		s.clients = append(s.clients, c)
		clients.Go(func() {
			if err := c.run(ctx); err != nil {
				t.Errorf("%v: %v", c, err)
			}
		})
	}
	s.began = time.Now()
	r := rand.New(rand.NewPCG(seed, 0))
	var samples []sample
	for i := range s.form.rests {
		s.storms(r, site)
		s.calm()
		samples = append(samples, s.sample())
		t.Logf("%v", samples[i])
	}
	s.expectFlat(samples[(len(samples)+7)/8:]) // histories have to fill first

	leave()
	clients.Wait()
	for _, c := range s.clients {
		c.line.close()
	}
	s.expectNothingLeft()
	s.expectVariety()
}

// useOnce uses each protocol once, and notes what the process holds after that.
func (s *soak) useOnce(site string) {
	for _, protocol := range append(protocols, "h1+TLS") {
		l := s.newLine(protocol)
		stream, err := connectTo(l.client, l.base+"/api/r0", "")
		if err != nil {
			s.t.Fatal(err)
		}
		s.next(stream)
		stream.close()
		l.close()
	}
	if err := s.reload(site); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("nothing of ours runs yet", s.nothingRuns)
	s.before = s.sample()
	s.t.Logf("%v", s.before)
}

func (s *soak) nothingRuns() bool { return !strings.Contains(s.goroutines(), "caddy-poll-sse.") }

// storms lets everybody behave badly for a while.
func (s *soak) storms(r *rand.Rand, site func(int) string) {
	until := time.Now().Add(s.form.storminess)
	storm, end := context.WithCancel(context.Background())
	defer end()
	s.setStorm(storm)
	s.documents.calm.Store(false)
	defer s.documents.calm.Store(true)
	if s.form.storminess > time.Minute { // it takes the server 30s to miss somebody who falls silent
		s.cut(r, "h3")
	}
	for {
		pause := s.form.reloadEvery/2 + time.Duration(r.Int64N(int64(s.form.reloadEvery/2)))
		if time.Until(until) < pause {
			break
		}
		time.Sleep(pause / 2)
		s.cut(r, "h2")
		time.Sleep(pause / 2)
		if err := s.reload(site(int(s.reloads.Add(1)))); err != nil {
			s.t.Error(err)
		}
	}
	time.Sleep(time.Until(until))
}

// cut ends one of the connections that clients share.
func (s *soak) cut(r *rand.Rand, protocol string) {
	lines := s.shared[protocol]
	lines[r.IntN(len(lines))].cut()
	s.cuts.Add(1)
}

func (s *soak) setStorm(storm context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storm = storm
}

func (s *soak) currentStorm() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storm
}

// calm waits until all clients are there and have the newest version.
func (s *soak) calm() {
	s.t.Helper()
	streams := 0
	for _, c := range s.clients {
		if !c.longPolls {
			streams++
		}
	}
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(100 * time.Millisecond) {
		behind := slices.DeleteFunc(slices.Clone(s.clients), (*soakClient).isUpToDate)
		open := s.metric("caddy_poll_sse_streams")
		if len(behind) == 0 && open == streams {
			break
		}
		if time.Now().After(deadline) {
			for _, c := range behind[:min(len(behind), 5)] {
				s.t.Errorf("%v is behind", c)
			}
			s.t.Fatalf("%d clients are behind; %d streams of %d clients are open", len(behind), open, streams)
		}
	}
	// What nobody uses lingers for a second, on a busy machine for longer.
	for before, files := math.MaxInt, math.MaxInt-1; files < before; {
		time.Sleep(3 * time.Second / 2)
		before, files = files, s.metric("process_open_fds")
	}
}

// sample is what the process holds, and what has happened so far.
type sample struct {
	*soak
	at      time.Duration
	metrics map[string]float64
	polls   int
	faults  int
	counts  [6]int64
}

// levels are the metrics that may rise by no more than a tenth and that.
var levels = map[string]float64{
	"go_goroutines":                40,
	"process_open_fds":             20,
	"go_memstats_heap_alloc_bytes": 6 << 20,
	// How full the pages are is up to the runtime.
	"go_memstats_heap_inuse_bytes": 16 << 20,
}

// leftovers is what may be there a minute after all clients have left: of the heap more
// than while they come and go, since configurations that were unloaded in the last minutes
// are still reachable.
var leftovers = map[string]float64{
	"go_goroutines":                40,
	"process_open_fds":             20,
	"go_memstats_heap_alloc_bytes": 16 << 20,
}

// sample returns the lowest of some levels that follow on each other: it is about what
// stays, not about what is under way.
func (s *soak) sample() sample {
	s.t.Helper()
	lowest := sample{soak: s, at: time.Since(s.began)}
	if s.began.IsZero() {
		lowest.at = 0
	}
	for range 4 {
		time.Sleep(100 * time.Millisecond)
		s.get("/debug/pprof/heap?gc=1") // the second time it takes what pools have kept
		metrics := make(map[string]float64)
		for line := range strings.Lines(s.get("/metrics")) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			metrics[name], _ = strconv.ParseFloat(value, 64)
			if strings.HasPrefix(name, "caddy_poll_sse_streams{") {
				metrics["streams"] += metrics[name]
			}
		}
		if lowest.metrics == nil {
			lowest.metrics = metrics
		}
		for level := range levels {
			lowest.metrics[level] = min(lowest.metrics[level], metrics[level])
		}
	}
	for name, value := range lowest.metrics {
		if strings.HasPrefix(name, "caddy_poll_sse_polls_total") {
			lowest.polls += int(value)
		}
	}
	lowest.faults = int(s.documents.faults.Load())
	for i, count := range []*atomic.Int64{&s.events, &s.answered, &s.streams, &s.reloads, &s.cuts, &s.stalls} {
		lowest.counts[i] = count.Load()
	}
	return lowest
}

// get returns what the admin API answers.
func (s *soak) get(path string) string {
	s.t.Helper()
	response, err := s.admin.Get("http://localhost" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	var text strings.Builder
	if _, err := bufio.NewReader(response.Body).WriteTo(&text); err != nil {
		s.t.Fatal(err)
	}
	return text.String()
}

func (s sample) String() string {
	m := func(name string) float64 { return s.metrics[name] }
	mib := func(name string) float64 { return s.metrics[name] / (1 << 20) }
	return fmt.Sprintf("%6v: %4.0f streams, %5.0f goroutines, heap %5.1f MiB (%5.1f in use), %4.0f fds, RSS %4.0f MiB; so far %7d events, %6d long-polls, %6d polls, %5d faults, %6d connects, %3d reloads, %5d cuts, %5d stalls",
		s.at.Round(time.Second), m("streams"), m("go_goroutines"), mib("go_memstats_heap_alloc_bytes"), mib("go_memstats_heap_inuse_bytes"),
		m("process_open_fds"), mib("process_resident_memory_bytes"),
		s.counts[0], s.counts[1], s.polls, s.faults, s.counts[2], s.counts[3], s.counts[4], s.counts[5])
}

// expectFlat compares the last third of samples with the first. What the process held
// before does not count.
func (s *soak) expectFlat(samples []sample) {
	median := func(samples []sample, level string) float64 {
		var values []float64
		for _, one := range samples {
			values = append(values, one.metrics[level]-s.before.metrics[level])
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	third := max(len(samples)/3, 1)
	for level, slack := range levels {
		first, last := median(samples[:third], level), median(samples[len(samples)-third:], level)
		if last > 1.1*first+slack {
			s.t.Errorf("%s rose from %.0f to %.0f above what it was before the clients came", level, first, last)
		}
	}
}

// expectNothingLeft waits until what the clients have brought about is gone.
func (s *soak) expectNothingLeft() {
	s.eventually("nothing of ours runs any longer", s.nothingRuns)
	if open := s.metric("caddy_poll_sse_streams"); open != 0 {
		s.t.Errorf("%d streams are open", open)
	}
	var after sample
	above := func(level string) bool { return after.metrics[level] > s.before.metrics[level]+leftovers[level] }
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(time.Second) {
		after = s.sample()
		if time.Now().After(deadline) || !above("go_goroutines") && !above("process_open_fds") && !above("go_memstats_heap_alloc_bytes") {
			break
		}
	}
	s.t.Logf("%v", after)
	for level := range leftovers {
		if above(level) {
			s.t.Errorf("%s is %.0f, and was %.0f before the clients came", level, after.metrics[level], s.before.metrics[level])
		}
	}
}

// expectVariety looks whether a long soak was one.
func (s *soak) expectVariety() {
	for what, happened := range map[string]int64{
		"events": s.events.Load(), "long-polls": s.answered.Load(), "visits": s.visits.Load(), "cuts": s.cuts.Load(),
		"stalls": s.stalls.Load(), "reloads": s.reloads.Load(), "resumed streams": s.resumed.Load(), "faults": s.documents.faults.Load(),
	} {
		if *long > 0 && happened < int64(s.form.rests) {
			s.t.Errorf("only %d %s", happened, what)
		}
	}
	if refused := s.metric(`caddy_poll_sse_refusals_total{limit="max_views"}`); refused > 0 {
		s.t.Errorf("%d clients were refused, as if views were never dropped", refused)
	}
	for _, outcome := range []string{"new", "held", "digest", "snapshot"} {
		if *long > 0 && s.metric(`caddy_poll_sse_resumes_total{outcome="`+outcome+`"}`) == 0 {
			s.t.Errorf("no stream began with outcome %s", outcome)
		}
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil && s.before.metrics["process_open_fds"] == 0 {
		s.t.Error("file descriptors are not counted")
	}
}
