package integration

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// The multipliers of XXH64.
const (
	prime1 uint64 = 11400714785074694791
	prime2 uint64 = 14029467366897019727
)

func xxhRound(lane, input uint64) uint64 { return bits.RotateLeft64(lane+input*prime2, 31) * prime1 }

// collide returns two documents with other prices and the same digest: XXH64 is not
// made to withstand those who choose what is hashed. Each of its four lanes takes 8
// bytes of every 32, and what one input has changed in a lane, the next can undo.
func collide(t *testing.T) (a, b string) {
	t.Helper()
	document := func(price, salt string) string {
		return fmt.Sprintf(`{"owner":"a user","n":1,"price":%s,"text":"any text","s":"%s","filler":%q}`, price, salt, filler)
	}
	layout := document("11111111", "saltsalt")
	if layout[32:40] != "11111111" || layout[64:72] != "saltsalt" {
		t.Fatalf("the lanes have %q and %q", layout[32:40], layout[64:72])
	}
	start := prime1
	start += prime2 // wraps around, which constants must not
	lane := xxhRound(start, binary.LittleEndian.Uint64([]byte(layout[:8])))
	inverse := prime2 // of prime2; each step doubles the bits that are right
	for range 6 {
		inverse *= 2 - prime2*inverse
	}
	for price := 20000000; price < 20100000; price++ {
		priceA, priceB := "10000001", fmt.Sprint(price)
		difference := (xxhRound(lane, binary.LittleEndian.Uint64([]byte(priceB))) - xxhRound(lane, binary.LittleEndian.Uint64([]byte(priceA)))) * inverse
		if saltA, saltB, ok := textsApart(difference); ok {
			a, b = document(priceA, saltA), document(priceB, saltB)
			if xxhash.Sum64String(a) != xxhash.Sum64String(b) || a == b {
				t.Fatalf("no collision: %.80s, %.80s", a, b)
			}
			t.Logf("after %d attempts: %.72s\nand %.72s", price-20000000+1, a, b)
			return a, b
		}
	}
	t.Fatal("no collision found")
	return "", ""
}

// textsApart returns two words of letters and digits, as lanes read them, of which the
// first is larger by difference.
func textsApart(difference uint64) (larger, smaller string, ok bool) {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var a, b [8]byte
	var dead [len(a)][2]bool // no choice of the letters from here on goes with that carry
	var choose func(i int, carry uint64) bool
	choose = func(i int, carry uint64) bool {
		if i == len(a) {
			return true
		}
		if dead[i][carry] {
			return false
		}
		dead[i][carry] = true
		for _, letter := range []byte(letters) {
			sum := uint64(letter) + difference>>(8*i)&0xff + carry
			a[i], b[i] = byte(sum), letter
			if strings.IndexByte(letters, a[i]) >= 0 && choose(i+1, sum>>8) {
				return true
			}
		}
		return false
	}
	ok = choose(0, 0)
	return string(a[:]), string(b[:]), ok
}

// Whoever writes into a document can give two versions of it the same digest. As long as
// the log holds what a client has, that changes nothing: a change is found by comparing
// documents, and a place by its number.
func TestCollidingDigests(t *testing.T) {
	a, b := collide(t)
	u := newUpstream(t, a)
	site := u.site("interval 20ms\nlinger 1h")
	c := start(t, site)
	live, full := c.open("h1", "/api/x", ""), c.open("h1", "/api/x?sse_format=full", "")
	first := c.next(live)
	doc, firstFull := apply(t, nil, first.Data), c.next(full)
	tag := `W/"` + first.ID + `"`
	u.set(b)
	second := c.next(live)
	doc = apply(t, doc, second.Data)
	if digest := len(first.ID) - 11; first.ID[digest:] != second.ID[len(second.ID)-11:] {
		t.Fatalf("%s and %s", first.ID, second.ID)
	}
	if e := c.next(full); e.Data != b || firstFull.Data != a || fmt.Sprint(doc) != fmt.Sprint(value(t, b)) {
		t.Errorf("%.100s follows %.100s, and %v", e.Data, firstFull.Data, doc)
	}
	if e := c.once("h1", "/api/x", first.ID); e.Data != second.Data {
		t.Errorf("a returning client is sent %.100s", e.Data)
	}
	if response, text, err := c.longPoll("h1", "/api/x", 1, tag); err != nil || response.StatusCode != 200 || text != b {
		t.Errorf("a long-poll is sent %v, %.100s (%v)", response.Status, text, err)
	}

	// What the documents of others are called leads to none of them.
	u.set(numbered(7))
	c.next(live)
	if e := c.once("h1", "/api/of-another-user", first.ID); e.Data != `[{"op":"replace","path":"","value":`+numbered(7)+`}]` {
		t.Errorf("at another resource the client is sent %.200s", e.Data)
	}

	// In another life of the log, a digest is all there is: the client is taken for one
	// that has the other document, until the next snapshot. It is for those who let
	// others write into a document to know (SECURITY.md); this says what there is.
	u.set(b)
	c.next(live)
	c.terminate()
	c.run(site)
	back := c.open("h1", "/api/x", first.ID)
	defer back.close()
	back.expectNothing(t, first.ID)
	if n := c.metric(`caddy_poll_sse_resumes_total{outcome="digest"}`); n != 1 {
		t.Errorf("%d clients were recognised", n)
	}
}
