//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where processes are started, each bound to a core.
type machine struct {
	serverCore, otherCore int
	dir                   string // for what Caddy keeps
}

// newMachine takes the first two cores that this process may use, or twice the same
// where there is only one, and binds this process to the second.
func newMachine() (*machine, error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, fmt.Errorf("asking for the cores: %w", err)
	}
	var found []int
	for core := 0; len(found) < min(2, allowed.Count()); core++ {
		if allowed.IsSet(core) {
			found = append(found, core)
		}
	}
	m := &machine{serverCore: found[0], otherCore: found[len(found)-1]}
	if err := pinProcess(m.otherCore); err != nil {
		return nil, fmt.Errorf("pinning to core %d: %w", m.otherCore, err)
	}
	var err error
	m.dir, err = os.MkdirTemp("", "bench")
	return m, err
}

func (m *machine) close() { os.RemoveAll(m.dir) }

// pinProcess binds all threads of this process to a core; new ones inherit that.
func pinProcess(core int) error {
	threads, err := os.ReadDir("/proc/self/task")
	for _, thread := range threads {
		id, _ := strconv.Atoi(thread.Name())
		if e := pinThread(id, core); e != unix.ESRCH { // it may have ended
			err = errors.Join(err, e)
		}
	}
	return err
}

func pinThread(id, core int) error {
	var set unix.CPUSet
	set.Set(core)
	return unix.SchedSetaffinity(id, &set)
}

// pinned calls start on a thread that is bound to a core, so that the process which it
// starts is bound from its first instruction on, and has that core only as its NumCPU.
func pinned(core int, start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := errors.Join(unix.SchedGetaffinity(0, &before), pinThread(0, core)); err != nil {
		return fmt.Errorf("pinning to core %d: %w", core, err)
	}
	defer unix.SchedSetaffinity(0, &before)
	return start()
}

// cpuTime returns how long a process has been running on a core, with what the kernel
// did on its behalf.
func cpuTime(pid int) (time.Duration, error) {
	const clockScheduler = 2 // nanoseconds as the scheduler counts them; see clock_getcpuclockid(3)
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|clockScheduler), &t)
	return time.Duration(t.Nano()), err
}

// memory returns a figure in KiB from the status of a process, such as VmRSS.
func memory(pid int, name string) (kib float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err == nil {
		_, value, _ := bytes.Cut(status, []byte("\n"+name+":"))
		_, err = fmt.Sscanf(string(value), "%f kB", &kib)
	}
	return kib, err
}
