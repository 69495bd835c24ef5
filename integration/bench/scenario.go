//go:build linux

package main

import (
	"fmt"
	"os"
	"time"
)

// scenario is a table: contenders under one load, or one contender under several.
type scenario struct {
	name    string
	title   string
	full    bool // runs only with -full, or if it is named
	steady  bool // a delivery by poll_sse must cost the same in all of these
	entries []entry
	base    string   // the entry that the others are compared with; "" for none
	columns []metric // "÷" before a name stands for the ratio to base
	goals   []goal
	measure func(*trial) figures
}

// entry is a line of the table.
type entry struct {
	name string
	load
}

// entriesOf returns an entry for each contender under the same load.
func entriesOf(l load, contenders ...contender) (entries []entry) {
	for _, c := range contenders {
		l.contender = c
		entries = append(entries, entry{string(c), l})
	}
	return entries
}

// setStreams gives all loads another number of streams.
func (s *scenario) setStreams(n int) {
	for i := range s.entries {
		l := &s.entries[i].load
		l.stalled = l.stalled * n / l.streams
		l.streams = n
	}
}

// run measures all entries, in rounds that each begin with another one. An entry that
// fails is left out from then on.
func (s *scenario) run(m *machine, rounds int) *outcome {
	o := &outcome{scenario: s, rounds: make([]map[string]figures, rounds), failures: make(map[string]error)}
	for round := range o.rounds {
		o.rounds[round] = make(map[string]figures)
		for i := range s.entries {
			e := s.entries[(i+round)%len(s.entries)]
			if o.failures[e.name] != nil {
				continue
			}
			began := time.Now()
			if f, err := s.runEntry(m, e.load); err != nil {
				o.failures[e.name] = err
			} else {
				o.rounds[round][e.name] = f
			}
			fmt.Fprintf(os.Stderr, "%s, round %d: %s in %.1f s\n", s.name, round+1, e.name, time.Since(began).Seconds())
		}
	}
	return o
}

func (s *scenario) runEntry(m *machine, l load) (figures, error) {
	t := m.start(l)
	defer t.close()
	f := s.measure(t)
	return f, t.err
}

// scenarios returns all there are, in the order in which they run.
func scenarios() []*scenario {
	all := []*scenario{
		overH1(1000, 200), overH1(5000, 200), overH1(10000, 200), overH1(5000, 2000),
		backToBack(), compressed(), snapshot(), stalled(),
	}
	for _, streams := range []int{1000, 5000} {
		all = append(all, overH2(streams, 100), overH2(streams, 1))
	}
	return append(all, stopping(), reloading())
}

// largeRest is what does not change of a document where clients may lag: poll_sse sends
// a snapshot instead of many events that are larger together.
const largeRest = 32 << 10

// paced is a load at an interval that leaves a server some time for itself.
func paced(streams, size, rest int) load {
	interval := time.Duration(streams) * 50 * time.Microsecond
	return load{contender: pollSSE, streams: streams, size: size, rest: rest, interval: interval, events: 20}
}

// deliveryColumns are about events that reach clients.
var deliveryColumns = []metric{
	cpu, "÷" + cpu, first, p50, p99, maximum, last, "÷" + last, lost, repeated, idle, idleGC, loaded, wire, "÷" + wire,
}

func overH1(streams, size int) *scenario {
	l := paced(streams, size, 1000)
	if size > 200 {
		l.rest = largeRest
	}
	return &scenario{
		name:    fmt.Sprintf("h1-%d-%d", size, streams),
		title:   fmt.Sprintf("%d clients over HTTP/1.1, %d-byte events every %v", streams, size, l.interval),
		full:    streams > 5000 || size > 200,
		steady:  size == 200,
		entries: entriesOf(l, pollSSE, bare, broadcast, raw, hold),
		base:    string(raw),
		columns: append(deliveryColumns[:len(deliveryColumns)-1:len(deliveryColumns)-1], pollBytes),
		goals: []goal{
			{metric: cpu, of: string(pollSSE), over: string(raw), limit: 1.45},
			{metric: last, of: string(pollSSE), over: string(raw), limit: 1.45},
			{metric: cpu, of: string(pollSSE), over: string(broadcast), limit: 0.95},
			{metric: cpu, of: string(pollSSE), over: string(bare), limit: 1.1},
			{metric: idle, of: string(pollSSE), over: string(hold), limit: 1.1},
			{metric: idleGC, of: string(pollSSE), over: string(hold), limit: 1.1},
			{metric: lost, of: string(pollSSE)},
			{metric: repeated, of: string(pollSSE)},
		},
		measure: fanOut,
	}
}

func backToBack() *scenario {
	l := load{streams: 1000, size: 200, rest: largeRest, interval: time.Millisecond, lasts: 5 * time.Second}
	return &scenario{
		name:    "back-to-back",
		title:   "1000 clients, 200-byte events as fast as they are made",
		full:    true,
		entries: entriesOf(l, pollSSE, bare, broadcast, raw),
		base:    string(raw),
		columns: []metric{cpu, "÷" + cpu, rate, p50, p99, maximum, last, lost, repeated, replaced, loaded, wire},
		goals: []goal{
			{metric: cpu, of: string(pollSSE), over: string(raw), limit: 0.8},
			{metric: lost, of: string(pollSSE)},
		},
		measure: fanOut,
	}
}

func compressed() *scenario {
	identity := paced(5000, 3000, largeRest)
	gzipped := identity
	gzipped.gzip = true
	return &scenario{
		name:    "gzip",
		title:   "5000 clients, 3000-byte events, compressed or not",
		full:    true,
		entries: []entry{{"identity", identity}, {"gzip", gzipped}},
		base:    "identity",
		columns: deliveryColumns,
		goals: []goal{
			{metric: cpu, of: "gzip", over: "identity", limit: 1.1},
			{metric: wire, of: "gzip", over: "identity", limit: 0.45},
			{metric: idle, of: "gzip", over: "identity", limit: 1.1},
			{metric: idleGC, of: "gzip", over: "identity", limit: 1.1},
			{metric: lost, of: "gzip"},
		},
		measure: fanOut,
	}
}

func snapshot() *scenario {
	return &scenario{
		name:    "snapshot",
		title:   "1000 clients that come at once for a document of 1 MiB",
		full:    true,
		entries: entriesOf(load{streams: 1000, interval: time.Second}, pollSSE, content),
		base:    string(content),
		columns: []metric{took, busy, speed, "÷" + speed, peak},
		goals:   []goal{{metric: speed, of: string(pollSSE), over: string(content), limit: 0.8, atLeast: true}},
		measure: flood,
	}
}

func stalled() *scenario {
	// The first snapshot is more than the kernel takes for a client that does not read,
	// so that all of those are stalled before the first event.
	some := paced(5000, 3000, 256<<10)
	none := some
	some.stalled, none.streams = 1000, 4000
	return &scenario{
		name:    "stalled",
		title:   "4000 clients, 3000-byte events, without and with 1000 more that never read",
		full:    true,
		entries: []entry{{"without", none}, {"with", some}},
		base:    "without",
		columns: []metric{cpu, p50, p99, "÷" + p99, maximum, last, lost, repeated, loaded, grown},
		goals: []goal{
			{metric: p99, of: "with", over: "without", limit: 1.2},
			{metric: grown, of: "with", over: "without", limit: 20, difference: true},
			{metric: lost, of: "with"},
		},
		measure: fanOut,
	}
}

func overH2(streams, perConn int) *scenario {
	l := paced(streams, 200, 1000)
	l.perConn = perConn
	return &scenario{
		name:    fmt.Sprintf("h2-%d-%d", perConn, streams),
		title:   fmt.Sprintf("%d streams over HTTP/2, %d on each connection, 200-byte events", streams, perConn),
		full:    true,
		entries: entriesOf(l, pollSSE, bare),
		base:    string(bare),
		columns: deliveryColumns,
		goals: []goal{
			{metric: cpu, of: string(pollSSE), over: string(bare), limit: 1.1},
			{metric: lost, of: string(pollSSE)},
		},
		measure: fanOut,
	}
}

func stopping() *scenario {
	return &scenario{
		name:    "stop",
		title:   "from SIGTERM to the end of a process with 10000 streams",
		full:    true,
		entries: entriesOf(paced(10000, 200, 1000), pollSSE),
		columns: []metric{took, clean},
		measure: stop,
	}
}

func reloading() *scenario {
	columns := []metric{clean, retryMin, retryMean, retryMax}
	for bucket := range drainBuckets {
		columns = append(columns, endsFrom(bucket))
	}
	return &scenario{
		name:    "reload",
		title:   "when 10000 streams end after a reload, with a drain of 3 s",
		full:    true,
		entries: entriesOf(paced(10000, 200, 1000), pollSSE),
		columns: columns,
		measure: drain,
	}
}
