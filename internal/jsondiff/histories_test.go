package jsondiff

import (
	"encoding/json"
	"reflect"
	"testing"

	peer "github.com/wI2L/jsondiff"

	"github.com/pollsse/caddy-poll-sse/internal/histories"
	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// editDistance is what an edit-distance differ, the npm package rfc6902 in version
// 5.4.0, makes of the histories that it can finish: bytes of the smaller of patch and
// whole for each step.
var editDistance = map[string]int{"fema-shelters": 1_300_940, "usgs-quakes-2.5day": 1_007_155}

// Patches are right, and about as small as those of differs that look for the smallest.
func TestRecordedHistories(t *testing.T) {
	recorded := histories.Recorded(t)
	if len(recorded) == 0 {
		t.Skip("POLL_SSE_HISTORIES is not set")
	}
	for name, versions := range recorded {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc := document(t, versions[0])
			value, err := oracle.Value(doc.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs, whole := 0, 0, 0
			for i, text := range versions[1:] {
				next, patch, err := new(Differ).Diff(doc, []byte(text))
				if (err == nil) != valid([]byte(text)) {
					t.Fatalf("version %d: %v", i+1, err)
				}
				if err != nil {
					continue
				}
				if value, err = oracle.Apply(value, patch.Bytes()); err != nil {
					t.Fatal(err)
				}
				if want, _ := oracle.Value([]byte(text)); !reflect.DeepEqual(value, want) {
					t.Fatalf("version %d is not what its patch makes", i+1)
				}
				sameDocument(t, next, text)
				if patch.Len() > 0 {
					size := len(Whole(next.Bytes()))
					ours += min(size, len(patch.Bytes()))
					theirs += min(size, longestCommon(t, doc.Bytes(), next.Bytes()))
					whole += size
				}
				doc = next
			}
			best := theirs
			if n, ok := editDistance[name]; ok {
				best = min(best, n)
			}
			t.Logf("%d versions: patches %d bytes; with LCS by a peer %d; edit distance %d; whole %d", len(versions), ours, theirs, editDistance[name], whole)
			if ours > best*115/100 {
				t.Errorf("patches of %d bytes, the best have %d", ours, best)
			}
		})
	}
}

// longestCommon returns how long the patch of another differ is, which looks for the
// longest common subsequence of arrays.
func longestCommon(t *testing.T, old, new []byte) int {
	patch, err := peer.CompareJSON(old, new, peer.LCS())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(patch)
	if err != nil {
		t.Fatal(err)
	}
	return len(text)
}
