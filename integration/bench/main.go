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
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
	"runtime"
)

func main() {
	if isChild() {
		return
	}
	full := flag.Bool("full", false, "run all scenarios")
	only := flag.String("only", "", "run the scenarios that match `name`, such as h2-*")
	rounds := flag.Int("rounds", 5, "run each contender `n` times")
	streams := flag.Int("clients", 0, "have `n` clients in every scenario")
	flag.Parse()
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
	fmt.Printf("%s, %s/%s, %d rounds\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, rounds)
	var steady []float64 // what a delivery costs however many clients there are
	for _, s := range scenarios() {
		if chosen, _ := path.Match(only, s.name); !chosen && (only != "" || s.full && !full) {
			continue
		}
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
