package jsondiff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	peer "github.com/wI2L/jsondiff"
)

// station is an item of 320 bytes, as bike share systems publish them (GBFS).
type station struct {
	id     int
	counts [4]int
	note   string
	order  []int
}

func (s station) String() string {
	members := []string{
		fmt.Sprintf(`"station_id":"%d"`, s.id),
		fmt.Sprintf(`"num_bikes_available":%d`, s.counts[0]),
		fmt.Sprintf(`"num_ebikes_available":%d`, s.counts[1]),
		fmt.Sprintf(`"num_docks_available":%d`, s.counts[2]),
		`"num_docks_disabled":0`,
		`"num_bikes_disabled":1`,
		`"is_installed":true`,
		`"is_renting":true`,
		`"is_returning":true`,
		fmt.Sprintf(`"last_reported":%d`, 1700000000+s.counts[3]),
		fmt.Sprintf(`"name":"Corner of Street %d and Avenue %d"`, s.id%97, s.id%13),
		fmt.Sprintf(`"lat":40.%06d`, s.id*7919%1000000),
		fmt.Sprintf(`"lon":-73.%06d`, s.id*104729%1000000),
	}
	if s.note != "" {
		members = append(members, `"note":"`+s.note+`"`)
	}
	if s.order == nil {
		return "{" + strings.Join(members, ",") + "}"
	}
	shuffled := make([]string, len(members))
	for i, k := range s.order {
		shuffled[i] = members[k]
	}
	return "{" + strings.Join(shuffled, ",") + "}"
}

// stations is a document that changes.
type stations struct {
	*rand.Rand
	updated int
	list    []station
}

func newStations(n int) *stations {
	s := &stations{Rand: rand.New(rand.NewPCG(1, 2)), updated: 1700000000}
	for i := range n {
		s.list = append(s.list, station{id: 100000 + i})
		s.change(i)
	}
	return s
}

// change changes four members of an item.
func (s *stations) change(i int) {
	for k := range s.list[i].counts {
		s.list[i].counts[k] = (s.list[i].counts[k] + 1 + s.IntN(30)) % 40
	}
}

func (s *stations) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"last_updated":%d,"ttl":60,"version":"2.3","data":{"stations":[`, s.updated)
	for i, x := range s.list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(x.String())
	}
	b.WriteString("]}}")
	return b.Bytes()
}

// changes are what may become of a document of many items between two polls.
var changes = []struct {
	name  string
	items int
	do    func(*stations)
}{
	{"identical", 2000, func(s *stations) { s.updated-- }},
	{"one scalar", 2000, func(*stations) {}},
	{"10 of 2000", 2000, func(s *stations) { s.some(10) }},
	{"100 of 2000", 2000, func(s *stations) { s.some(100) }},
	{"200 of 2000", 2000, func(s *stations) { s.some(200) }},
	{"all of 2000", 2000, func(s *stations) { s.some(2000) }},
	{"insert head", 2000, func(s *stations) { s.list = append([]station{{id: 99999}}, s.list...) }},
	{"delete middle", 2000, func(s *stations) { s.list = append(s.list[:1000:1000], s.list[1001:]...) }},
	{"shuffle", 2000, func(s *stations) {
		s.Shuffle(len(s.list), func(i, k int) { s.list[i], s.list[k] = s.list[k], s.list[i] })
	}},
	{"member order", 2000, func(s *stations) {
		for i := range s.list {
			s.list[i].order = s.Perm(13)
		}
	}},
	{"1 of 200 large", 200, func(s *stations) { s.some(1) }},
	{"10 of 33000", 33000, func(s *stations) { s.some(10) }},
	{"1 of 3", 3, func(s *stations) { s.some(1) }},
	{"10 of 2000 with spaces", 2000, func(s *stations) { s.some(10) }},
}

func (s *stations) some(n int) {
	for _, i := range s.Perm(len(s.list))[:n] {
		s.change(i)
	}
}

// BenchmarkDiff compares the cases of changes with what else one could do with the
// new body: all figures are per poll.
func BenchmarkDiff(b *testing.B) {
	for _, c := range changes {
		s := newStations(c.items)
		if strings.Contains(c.name, "large") {
			for i := range s.list {
				s.list[i].note = strings.Repeat("large ", 500)
			}
		}
		before := s.text()
		s.updated++
		c.do(s)
		after := s.text()
		if strings.Contains(c.name, "spaces") { // as some write them by default
			spaces := strings.NewReplacer(`,"`, `, "`, `":`, `": `, `},{`, `}, {`)
			before, after = []byte(spaces.Replace(string(before))), []byte(spaces.Replace(string(after)))
		}
		old, err := Parse(before)
		if err != nil {
			b.Fatal(err)
		}
		differ := Differ{Worth: func(ops, bytes, size int) bool { return bytes <= size/2 && ops <= max(64, size/1500) }}
		again := bytes.Clone(before)
		b.Run(c.name+"/memory", func(b *testing.B) {
			b.SetBytes(int64(len(after)))
			for b.Loop() {
				if !bytes.Equal(before, again) {
					b.Fatal()
				}
			}
		})
		b.Run(c.name+"/ours", func(b *testing.B) {
			b.SetBytes(int64(len(after)))
			b.ReportAllocs()
			for b.Loop() {
				_, patch, err := differ.Diff(old, after)
				if err != nil {
					b.Fatal(err)
				}
				if patch != nil && patch.Len() > 0 {
					patch.Bytes()
				}
			}
		})
		b.Run(c.name+"/unlimited", func(b *testing.B) {
			b.SetBytes(int64(len(after)))
			b.ReportAllocs()
			for b.Loop() {
				_, patch, err := new(Differ).Diff(old, after)
				if err != nil {
					b.Fatal(err)
				}
				if patch.Len() > 0 {
					patch.Bytes()
				}
			}
		})
		b.Run(c.name+"/parse", func(b *testing.B) {
			b.SetBytes(int64(len(after)))
			for b.Loop() {
				if _, err := Parse(after); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/json.Valid", func(b *testing.B) {
			b.SetBytes(int64(len(after)))
			for b.Loop() {
				if !json.Valid(after) {
					b.Fatal()
				}
			}
		})
		b.Run(c.name+"/wI2L", func(b *testing.B) {
			b.SetBytes(int64(len(after)))
			b.ReportAllocs()
			for b.Loop() {
				patch, err := peer.CompareJSON(before, after)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := json.Marshal(patch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSkip(b *testing.B) {
	t := newStations(2000).text()
	b.SetBytes(int64(len(t)))
	for b.Loop() {
		skip(t, 0)
	}
}
