//go:build linux

// Command bench compares poll_sse with simpler servers of the same events, down to a
// loop of bare writes. It needs two cores: the server under test has one, the clients,
// the upstream and this program share the other.
//
//	go run ./integration/bench               # a few minutes
//	go run ./integration/bench -full         # all scenarios
//	go run ./integration/bench -only 'h2-*'  # those with such a name
//
// All contenders of a scenario run in turn, in several rounds that each begin with
// another one, and all figures are medians over the rounds. Those that compare two
// contenders are medians of what the rounds say, since a machine is not equally fast
// all the time.
//
// The contenders beside poll_sse are
//
//	floor        a loop of write(2), no HTTP
//	broadcaster  plain net/http, a channel per client
//	bare         Caddy with a handler that only writes
//	hold         Caddy with a handler that sends nothing, for its idle memory
//	content      Caddy with http.ServeContent
//
// Times count from the upstream's answer. First and last are when the first and the last
// client had an event, medians over the events; p50, p99 and max are those of all
// deliveries. Idle is the memory that a stream needs while nothing happens, also after
// a garbage collection. Plain poll is what a client that polls would be sent each time.
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
)

func main() {
	if isChild() {
		return
	}
	full := flag.Bool("full", false, "run all scenarios")
	only := flag.String("only", "", "run the scenarios whose `name` matches, such as h2-*")
	rounds := flag.Int("rounds", 5, "run each contender `n` times")
	streams := flag.Int("clients", 0, "have `n` clients in every scenario")
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 1 || *streams < 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := drive(*full, *only, *rounds, *streams); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// isChild plays a role where the environment says so, and reports whether it did.
func isChild() bool {
	switch os.Getenv(roleVariable) {
	case roleServer:
		runServer()
	case roleClients:
		runClients()
	default:
		return false
	}
	return true
}

// drive runs scenarios and prints what comes out.
func drive(full bool, only string, rounds, streams int) error {
	m, err := newMachine()
	if err != nil {
		return err
	}
	defer m.close()
	chosen, err := choose(full, only)
	if err != nil {
		return err
	}
	fmt.Printf("%s, %s/%s, rounds: %d\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, rounds)
	var steady []float64 // what a delivery costs however many clients there are
	for _, s := range chosen {
		if streams > 0 {
			s.setStreams(streams)
		}
		o := s.run(m, rounds)
		o.print(os.Stdout)
		if s.steady {
			steady = append(steady, o.median(string(pollSSE), cpu))
		}
	}
	if len(steady) > 1 {
		printSteady(os.Stdout, steady)
	}
	return nil
}

// choose returns the scenarios to run.
func choose(full bool, only string) (chosen []*scenario, err error) {
	var names []string
	for _, s := range scenarios() {
		matches, err := path.Match(only, s.name)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", only, err)
		}
		if matches || only == "" && (full || !s.full) {
			chosen = append(chosen, s)
		}
		names = append(names, s.name)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no scenario matches %q; there are %s", only, strings.Join(names, ", "))
	}
	return chosen, nil
}
