//go:build linux

package main

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"time"
)

// watch polls the upstream as the peers of poll_sse do, with no more than a ticker, and
// delivers an event for each new version. It ends with the process.
func watch(address string, interval time.Duration, deliver func(event []byte)) {
	last := int64(-1)
	for range time.Tick(interval) {
		value, n, err := fetch("http://" + address + "/doc")
		check(err)
		if last >= 0 && n != last {
			deliver(eventFrame(value, n))
		}
		last = n
	}
}

// fetch returns the changing string of the upstream's document and its version.
func fetch(url string) (value []byte, n int64, err error) {
	response, err := http.Get(url)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, 0, err
	}
	value, _, _ = bytes.Cut(bytes.TrimPrefix(body, []byte(`{"e":"`)), []byte{'"'})
	number, _, _ := bytes.Cut(value, []byte{' '})
	n, err = strconv.ParseInt(string(number), 10, 64)
	return value, n, err
}
