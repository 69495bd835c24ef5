//go:build linux

package main

import (
	"os"
	"testing"
	"time"
)

// TestMain plays the roles of children, as the program itself does.
func TestMain(m *testing.M) {
	if !isChild() {
		os.Exit(m.Run())
	}
}

// TestTrials has trials of all kinds run with a few clients: nothing may be lost.
func TestTrials(t *testing.T) {
	if testing.Short() {
		t.Skip("trials start processes; -short leaves them out")
	}
	m, err := newMachine()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	for _, s := range scenarios() {
		switch s.name {
		case "h1-200-1000", "back-to-back", "gzip", "stalled", "h2-100-1000", "snapshot", "stop":
		default:
			continue // like one of these
		}
		s.setStreams(20)
		for _, e := range s.entries {
			t.Run(s.name+"/"+e.name, func(t *testing.T) {
				t.Parallel()
				tryEntry(t, m, s, e.load)
			})
		}
	}
}

func tryEntry(t *testing.T, m *machine, s *scenario, l load) {
	l.interval, l.events, l.lasts = 20*time.Millisecond, 5, l.lasts/10
	f, err := s.runEntry(m, l)
	if err != nil {
		t.Fatal(err)
	}
	if f[lost] != 0 || f[repeated] != 0 {
		t.Errorf("%v lost, %v repeated", f[lost], f[repeated])
	}
	if f[wire] == 0 && l.contender != hold && f[took] == 0 {
		t.Error("nothing was delivered")
	}
}
