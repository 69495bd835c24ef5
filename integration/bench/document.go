//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// market makes text such as a backend would send: rows of numbers that walk at random.
// Two markets make the same texts.
type market struct {
	random *rand.Rand
	rows   []row
}

type row struct {
	id            int
	name          string
	price, change float64
}

func newMarket() *market {
	cities := []string{"Vienna", "Graz", "Linz", "Brno", "Trieste", "Zagreb", "Ljubljana", "Budapest", "Prague", "Munich"}
	quarters := []string{"West", "North", "Harbour", "Central", "Airport", "Old-Town"}
	m := &market{random: rand.New(rand.NewPCG(1, 2))}
	for i := range 200 {
		m.rows = append(m.rows, row{
			id:    1000 + i*7 + m.random.IntN(7),
			name:  cities[m.random.IntN(len(cities))] + "-" + quarters[m.random.IntN(len(quarters))],
			price: 50 + 100*m.random.Float64(),
		})
	}
	return m
}

// text returns the next size bytes.
func (m *market) text(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		r := &m.rows[i%len(m.rows)]
		r.change = m.random.NormFloat64()
		r.price = max(1, r.price+r.change)
		fmt.Fprintf(&b, "id=%d name=%s price=%.2f change=%.2f;", r.id, r.name, r.price, r.change)
	}
	return b.String()[:size]
}

// eventHead and eventTail are what poll_sse writes around the changed string; the tail
// is followed by an id of 25 to 27 characters and a blank line.
const (
	eventHead = `data: [{"op":"replace","path":"/e","value":"`
	eventTail = "\"}]\nid: "
)

// changing returns the string in the document that changes: the number of the version,
// when it was made, and text that fills its event up to size.
func changing(m *market, n, now int64, size int) string {
	head := strconv.FormatInt(n, 10) + " " + strconv.FormatInt(now, 10) + " "
	room := size - len(eventHead) - len(head) - len(eventTail) - 26 - len("\n\n")
	return head + m.text(max(room, 0))
}

// eventFrame returns the event that poll_sse sends when the string has changed to value
// for the n-th time, with an id that is no less long.
func eventFrame(value []byte, n int64) []byte {
	const word = "A-bCd3fGh1j"
	return fmt.Appendf(nil, "%s%s%s%s-%s-%s\n\n", eventHead, value, eventTail, word, strconv.FormatInt(n, 36), word)
}

// largeDocument returns a JSON text of at least a megabyte, the same in every process.
func largeDocument() []byte {
	m := newMarket()
	b := []byte(`{"rows":["`)
	for len(b) < 1<<20 {
		b = append(b, m.text(100)...)
		b = append(b, `","`...)
	}
	return append(b, `"]}`...)
}
