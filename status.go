package pollsse

import (
	"encoding/json"
	"net/http"
	"time"
)

// upstreamStatus is what clients that ask for it are told about the upstream.
type upstreamStatus struct {
	State     string      `json:"state"`          // live, or stale while polls are not good
	Since     time.Time   `json:"since"`          // when that began
	Upstream  any         `json:"upstream"`       // the HTTP status of its answer, or what is wrong, in a word
	Interval  int64       `json:"interval"`       // between polls, in milliseconds
	Heartbeat int64       `json:"heartbeat"`      // after how long a silence one comes, in milliseconds
	Poll      *pollStatus `json:"poll,omitempty"` // the newest, for clients that want to be told about each
}

// pollStatus is what the inspector is told about a poll.
type pollStatus struct {
	Result   pollKind `json:"result"`
	Duration float64  `json:"duration"` // in milliseconds
	Bytes    int      `json:"bytes"`    // what a client that polls would be sent: the newest document
}

// notices says what a client wants to be told about the upstream.
type notices int

const (
	noNotices notices = iota
	turnNotices
	pollNotices // and about each poll
)

const (
	stateNew   = "new" // not polled yet; clients of streams are told stale
	stateLive  = "live"
	stateStale = "stale"
)

func newUpstreamStatus(interval, heartbeat time.Duration) upstreamStatus {
	return upstreamStatus{State: stateStale, Since: now(), Upstream: "pending", Interval: interval.Milliseconds(), Heartbeat: heartbeat.Milliseconds()}
}

// now returns the time as it is told to clients.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// update notes the result of a poll, and reports whether the state has turned.
func (s *upstreamStatus) update(result pollResult, interval time.Duration) (turned bool) {
	before := *s
	s.State, s.Upstream, s.Interval = stateStale, result.cause, interval.Milliseconds()
	if result.good() {
		s.State = stateLive
	}
	if result.good() || result.status != 0 && result.status != http.StatusOK {
		s.Upstream = result.status
	}
	s.Poll = &pollStatus{result.kind, milliseconds(result.duration), result.size}
	if turned = s.State != before.State || before.Upstream == "pending"; turned {
		s.Since = now()
	}
	return turned
}

// event returns the status as an event.
func (s upstreamStatus) event() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic("status: internal error: " + err.Error())
	}
	return appendNotice(nil, eventStatus, data)
}
