//go:build linux

package main

import (
	"math"
	"slices"
)

// tally counts deliveries: an event that has come to a client.
type tally struct {
	since     int64 // in Unix nanoseconds
	base      int64 // the versions up to it do not count
	latencies []float32
	versions  []span // those after base
	delivered int64
	lost      int64
	repeated  int64
	replaced  int64 // by a snapshot, as slow clients are promised
	bytes     int64
}

// span is how long a version took to its first and to its last client.
type span struct{ first, last float32 }

// reset forgets all but the memory that it has.
func (t *tally) reset(now, base int64) {
	*t = tally{since: now, base: base, latencies: t.latencies[:0], versions: t.versions[:0]}
}

// note counts a version that has come on a stream.
func (t *tally) note(s *stream, n, made, now int64, snapshot bool) {
	missed := n - s.last - 1
	switch {
	case s.last < 0 || n == s.last+1:
	case n <= s.last:
		t.repeated++
		return
	case snapshot:
		t.replaced += missed
	default:
		t.lost += missed
	}
	s.last = n
	if n <= t.base || now < t.since {
		return
	}
	t.delivered++
	latency := float32(now-made) / 1e6
	t.latencies = append(t.latencies, latency)
	for int64(len(t.versions)) < n-t.base {
		t.versions = append(t.versions, span{first: math.MaxFloat32})
	}
	v := &t.versions[n-t.base-1]
	v.first, v.last = min(v.first, latency), max(v.last, latency)
}

// report is what the clients tell the driver. Times are in Unix nanoseconds.
type report struct {
	Answered, Ended, Clean, Gzipped            int // streams
	Delivered, Lost, Repeated, Replaced, Bytes int64
	LeastBytes                                 int64 // that a stream has got since it began
	Requested, LastRead                        int64
	First, P50, P99, Max, Last                 float64 // milliseconds
	RetryMin, RetryMax                         int     // milliseconds
	RetryMean                                  float64
	Ends                                       []int64
}

// add takes a stream into account.
func (r *report) add(s *stream) {
	if s.answer == answered {
		r.Answered++
		r.RetryMean += (float64(s.retry) - r.RetryMean) / float64(r.Answered)
		r.RetryMax = max(r.RetryMax, s.retry)
		if r.Answered == 1 || s.retry < r.RetryMin {
			r.RetryMin = s.retry
		}
	}
	if s.ended != 0 {
		r.Ended++
		r.Ends = append(r.Ends, s.ended)
	}
	if s.clean {
		r.Clean++
	}
	if r.LeastBytes < 0 || s.bytes < r.LeastBytes {
		r.LeastBytes = s.bytes
	}
}

// summarize adds the figures of t to a report.
func (t *tally) summarize(r *report) {
	r.Delivered, r.Lost, r.Repeated, r.Replaced, r.Bytes = t.delivered, t.lost, t.repeated, t.replaced, t.bytes
	if len(t.latencies) == 0 {
		return
	}
	var firsts, lasts []float32
	for _, v := range t.versions {
		if v.last > 0 { // not replaced for everybody
			firsts, lasts = append(firsts, v.first), append(lasts, v.last)
		}
	}
	for _, values := range [][]float32{t.latencies, firsts, lasts} {
		slices.Sort(values)
	}
	r.First, r.Last = quantile(firsts, 0.5), quantile(lasts, 0.5)
	r.P50, r.P99, r.Max = quantile(t.latencies, 0.5), quantile(t.latencies, 0.99), quantile(t.latencies, 1)
}

// quantile returns the value below which that part of sorted lies.
func quantile[T float32 | float64](sorted []T, part float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return float64(sorted[int(part*float64(len(sorted)-1)+0.5)])
}
