//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"
)

// metric names a figure, with its unit.
type metric string

const (
	cpu       metric = "CPU µs/delivery"
	first     metric = "first ms"
	p50       metric = "p50 ms"
	p99       metric = "p99 ms"
	maximum   metric = "max ms"
	last      metric = "last ms"
	rate      metric = "events/s"
	lost      metric = "lost"
	repeated  metric = "repeated"
	replaced  metric = "replaced"
	idle      metric = "idle KiB/stream"
	idleGC    metric = "after GC KiB/stream"
	loaded    metric = "RSS under load MiB"
	grown     metric = "RSS growth MiB" // since it was idle, after a garbage collection
	wire      metric = "wire B/delivery"
	pollBytes metric = "plain poll B"
	took      metric = "ms"
	busy      metric = "server CPU ms"
	speed     metric = "MB/s"
	peak      metric = "peak RSS MiB"
	clean     metric = "clean ends"
	retryMin  metric = "retry min ms"
	retryMean metric = "retry mean ms"
	retryMax  metric = "retry max ms"
)

// figures are what a trial has measured.
type figures map[metric]float64

// fanOut measures what it costs to hold streams and to send them events.
func fanOut(t *trial) figures {
	f := make(figures)
	rss := f.idle(t)
	if t.contender == hold {
		return f
	}
	warmUp(t)
	f.events(t)
	f[grown] = f[loaded] - rss/1024
	if t.contender == pollSSE {
		f[pollBytes] = float64(t.plainPoll())
	}
	return f
}

// idle connects the clients, measures what memory they need while nothing happens, and
// returns the RSS after a garbage collection. There is one before they connect too, or
// what it frees would hide some of what they need; and a first client, since what
// that has loaded and made is no cost of the others.
func (f figures) idle(t *trial) (rss float64) {
	t.firstClient()
	before := t.leastMemory()
	t.connect(false)
	time.Sleep(time.Second)
	natural := t.memory("VmRSS")
	rss = t.leastMemory()
	f[idle] = (natural - before) / float64(t.streams)
	f[idleGC] = (rss - before) / float64(t.streams)
	return rss
}

// warmUp sends the first events, which do not count.
func warmUp(t *trial) {
	const events = 3
	before := t.ask("count")
	t.do("warming up", func() error {
		if t.gzip && before.Gzipped == 0 {
			return errors.New("the answer is not gzip")
		}
		return t.upstream.run(events)
	})
	t.settleDeliveries(before, events)
	t.tell(t.clients, command{Do: "reset"})
}

// events measures the events that count.
func (f figures) events(t *trial) {
	before := t.cpu()
	events := t.run()
	expected := t.settleDeliveries(report{}, events)
	used := t.cpu() - before
	f[loaded] = t.memory("VmRSS") / 1024
	r := t.ask("report")
	t.do("delivering", func() error {
		if r.Ended > 0 || r.Delivered == 0 {
			return fmt.Errorf("%d deliveries, %d streams have ended", r.Delivered, r.Ended)
		}
		return nil
	})
	if t.lasts > 0 {
		f[rate] = float64(events) / t.lasts.Seconds()
	}
	f[cpu] = float64(used.Nanoseconds()) / 1e3 / float64(r.Delivered)
	f[wire] = float64(r.Bytes) / float64(r.Delivered)
	f[first], f[p50], f[p99], f[maximum], f[last] = r.First, r.P50, r.P99, r.Max, r.Last
	f[repeated], f[replaced] = float64(r.Repeated), float64(r.Replaced)
	f[lost] = float64(r.Lost)
	if !t.gzip { // where chunks are counted, and one may hold two events
		// What is missing in the end is lost even if nothing came behind it.
		f[lost] = float64(max(r.Lost, expected-r.Delivered-r.Replaced))
	}
}

// flood measures how fast clients that all come at once get a large document.
func flood(t *trial) figures {
	document := largeDocument()
	t.upstream.serveFixed(document)
	t.firstClient() // has the document polled, which is not what is measured
	before := t.cpu()
	t.connect(true)
	t.settle(func(r report) bool { return r.LeastBytes >= int64(len(document)) })
	used := t.cpu() - before
	r := t.ask("count")
	t.do("delivering", func() error {
		if r.LeastBytes < int64(len(document)) {
			return fmt.Errorf("a client has got only %d of %d bytes", r.LeastBytes, len(document))
		}
		return nil
	})
	ms := float64(r.LastRead-r.Requested) / 1e6
	return figures{
		took: ms, busy: float64(used.Microseconds()) / 1e3,
		speed: float64(r.Bytes) / 1e3 / ms, peak: t.memory("VmHWM") / 1024,
	}
}

// stop measures how long a server with streams takes to end when it is told to.
func stop(t *trial) figures {
	t.connect(false)
	ms := float64(t.terminate().Microseconds()) / 1e3
	return figures{took: ms, clean: float64(t.settleEnds().Clean)}
}

// settleEnds waits until all streams have ended.
func (t *trial) settleEnds() report {
	t.settle(func(r report) bool { return r.Ended == t.streams })
	return t.ask("report")
}

// The ends of streams are counted in a little more buckets than the time over which
// they end by default.
const (
	drainBucket  = 300 * time.Millisecond
	drainBuckets = 11
)

// endsFrom names the streams that end in a bucket.
func endsFrom(bucket int) metric {
	return metric(fmt.Sprintf("%.1f s", (time.Duration(bucket) * drainBucket).Seconds()))
}

// drain measures when streams end, and when their clients are told to come back, where
// the configuration is loaded anew.
func drain(t *trial) figures {
	t.connect(false)
	began := time.Now().UnixNano()
	t.reload()
	r := t.settleEnds()
	f := figures{clean: float64(r.Clean), retryMin: float64(r.RetryMin), retryMean: r.RetryMean, retryMax: float64(r.RetryMax)}
	for bucket := range drainBuckets {
		f[endsFrom(bucket)] = 0
	}
	for _, end := range r.Ends {
		bucket := int(time.Duration(end-began) / drainBucket)
		f[endsFrom(min(bucket, drainBuckets-1))]++
	}
	return f
}
