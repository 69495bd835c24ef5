//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// roleVariable is the environment variable that tells a process what it is: one of the
// roles, or the driver where it is empty.
const roleVariable = "POLL_SSE_BENCH"

const (
	roleServer  = "server"
	roleClients = "clients"
)

// patience is how long a child may take to answer.
const patience = 60 * time.Second

// command is what the driver tells a child, one per line.
type command struct {
	Do      string
	Setup   *setup   `json:",omitempty"` // of "serve"
	Connect *connect `json:",omitempty"` // of "connect"
}

// answer is what the child says when it has done that.
type answer struct {
	Error   string `json:",omitempty"`
	Address string `json:",omitempty"` // where the server listens
	Report  report
}

// child is a process of this program in another role.
type child struct {
	process *exec.Cmd
	exited  chan struct{}
	in      io.WriteCloser
	out     *os.File
	answers *json.Decoder
}

// newChild starts a process in a role, bound to a core, that keeps its files in dir. It
// ends with the driver at the latest.
func newChild(role string, core int, dir string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	process := exec.Command(program)
	process.Env = append(os.Environ(), roleVariable+"="+role, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	process.Stdout, process.Stderr = stdout, os.Stderr // which says why it ends
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := process.StdinPipe()
	if err == nil {
		err = pinned(core, process.Start)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	c := &child{process, make(chan struct{}), in, out, json.NewDecoder(out)}
	go func() {
		process.Wait()
		close(c.exited)
	}()
	return c, nil
}

// call has a command done.
func (c *child) call(do command) (a answer, err error) {
	c.out.SetReadDeadline(time.Now().Add(patience))
	if err := json.NewEncoder(c.in).Encode(do); err != nil {
		return a, err
	}
	if err := c.answers.Decode(&a); err != nil {
		return a, fmt.Errorf("waiting for the answer of a process: %w", err)
	}
	if a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// kill ends the process and waits for it.
func (c *child) kill() {
	c.process.Process.Kill()
	<-c.exited
	c.out.Close()
}

func (c *child) pid() int { return c.process.Process.Pid }

// commands reads what the driver tells this process.
type commands struct {
	lines *bufio.Reader
	out   *json.Encoder
}

func newCommands() *commands {
	return &commands{bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)}
}

// next waits for a command, has it done, and answers; false when there will be none.
func (c *commands) next(do func(command) (answer, error)) bool {
	line, err := c.lines.ReadBytes('\n')
	if err != nil {
		return false
	}
	var cmd command
	check(json.Unmarshal(line, &cmd))
	a, err := do(cmd)
	if err != nil {
		a.Error = err.Error()
	}
	check(c.out.Encode(a))
	return true
}

// check ends the process where something fails that never does.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
