package integration

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// report is an event as a client reports it.
type report struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Data string `json:"data"`
}

// reports are those of a client that runs in a goroutine of its own.
type reports struct {
	mu  sync.Mutex
	all []report
}

func (r *reports) add(e report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

// take returns those that are new.
func (r *reports) take() []report {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// judge follows the versions of [market] by the events that one client reports, and
// finds every one that must not be: without data, before a snapshot, for the second
// time, or after one that is missing.
type judge struct {
	number    bool   // each event is the number of a version, not a patch
	eventType string // what events are named
	// excuse says why the client, not the stream, is at fault for an event, "" for no.
	excuse func(j *judge, e report) string

	doc     any
	version int // -1 before the first event
	seen    []report
	excused map[string]int // by why
}

func newJudge() *judge { return &judge{version: -1, excused: make(map[string]int)} }

// hear judges an event.
func (j *judge) hear(e report) error {
	if j.excuse != nil {
		if why := j.excuse(j, e); why != "" {
			j.excused[why]++
			return nil
		}
	}
	if err := j.follow(e); err != nil {
		return fmt.Errorf("%w, after version %d: event %q of type %q with %q", err, j.version, e.ID, e.Type, cutShort(e.Data))
	}
	j.seen = append(j.seen, e)
	return nil
}

func (j *judge) follow(e report) error {
	switch {
	case e.Data == "":
		return fmt.Errorf("empty event")
	case e.ID == "":
		return fmt.Errorf("event without an id")
	case e.Type != j.eventType:
		return fmt.Errorf("event of another type than %q", j.eventType)
	case e.ID == j.lastID():
		return fmt.Errorf("repeated id")
	}
	before := j.version
	if j.number {
		var err error
		if j.version, err = strconv.Atoi(e.Data); err != nil || j.version <= before {
			return fmt.Errorf("no later version")
		}
		return nil
	}
	whole := strings.HasPrefix(e.Data, wholePatch)
	if before < 0 && !whole {
		return fmt.Errorf("first event is no snapshot")
	}
	doc, err := oracle.Apply(j.doc, []byte(e.Data))
	if err != nil {
		return err
	}
	version := versionOf(doc)
	switch {
	case !reflect.DeepEqual(doc, marketValue(version)):
		return fmt.Errorf("leads to what version %d was not", version)
	case whole && version <= before:
		return fmt.Errorf("version %d as a snapshot", version)
	case !whole && version != before+1:
		return fmt.Errorf("version %d as a patch", version)
	}
	j.doc, j.version = doc, version
	return nil
}

// lastID returns the id of the last event that was right.
func (j *judge) lastID() string {
	if len(j.seen) == 0 {
		return ""
	}
	return j.seen[len(j.seen)-1].ID
}

const wholePatch = `[{"op":"replace","path":"",`

func cutShort(text string) string { return text[:min(len(text), 200)] }

// versionOf returns which version of [market] doc is.
func versionOf(doc any) int {
	members, _ := doc.(map[string]any)
	number, _ := members["version"].(json.Number)
	version, err := strconv.Atoi(number.String())
	if err != nil {
		return -1
	}
	return version
}

var marketValues sync.Map // by version

// marketValue returns a version of [market] as a value.
func marketValue(version int) any {
	v, ok := marketValues.Load(version)
	if !ok {
		v, _ = oracle.Value([]byte(market(version)))
		marketValues.Store(version, v)
	}
	return v
}
