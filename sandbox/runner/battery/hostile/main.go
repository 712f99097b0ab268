// Hostile is a worker that does what it should not, to see what a back end stops. It is run in sandboxes, by tests and by
// `lab node check`, and is no part of any image that a scenario approves.
//
// Every probe is harmless where it succeeds: it opens without reading secrets, undoes what it changed, passes arguments
// that no kernel acts on, or acts in a child that ends at once. Probes reach for loopback, for namespaces of their own
// and for listeners that the caller names; never for another address.
//
//	hostile probes PORT ABSTRACT    tries everything; one line of JSON for each probe
//	hostile NAME                    one attack on resources, judged from outside
//
// The names are those of package battery.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner/battery/internal/answer"
)

// probe tries one thing; nil means that it worked.
type probe struct {
	name string
	try  func() error
}

// outcome is a line of output (battery.Outcome).
type outcome struct {
	Probe  string `json:"probe"`
	Worked bool   `json:"worked"`
	How    string `json:"how"` // what stopped it: the name of an errno, or words
}

func main() {
	inherited := inheritedFiles()
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	if os.Args[1] != "probes" {
		exhaust(os.Args[1], os.Args[2:]...)
		return
	}
	args := append(os.Args[2:], "", "")
	port, _ := strconv.Atoi(args[0])
	// One thread does it all, so that what a probe changes for a thread stays where it can be undone.
	runtime.LockOSThread()
	out := json.NewEncoder(os.Stdout)
	for _, list := range [][]probe{network(port, args[1]), files(), privileges(), kernel(), machine(), doors(inherited), last(), lastOfMachine()} {
		for _, p := range list {
			fmt.Fprintln(os.Stderr, p.name) // the last words of a process that a probe has ended
			err := p.try()
			if out.Encode(outcome{p.name, err == nil, describe(err)}) != nil {
				os.Exit(1)
			}
		}
	}
}

func describe(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// reach makes a call with arguments that no kernel acts on: whatever it says, but for a refusal, came from behind the
// door.
func reach(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	switch errno {
	case unix.EPERM, unix.ENOSYS, unix.EACCES:
		return errno
	}
	return nil
}

// open opens a file and closes it again.
func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// read opens a file or folder that holds something. A masked one is empty.
func read(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if names, err := f.Readdirnames(1); err == nil && len(names) > 0 {
		return nil
	}
	if n, _ := f.Read(make([]byte, 1)); n == 1 {
		return nil
	}
	return errors.New("empty")
}

// first is nil if one of several ways works.
func first(ways ...func() error) error {
	var err error
	for _, way := range ways {
		if err = way(); err == nil {
			return nil
		}
	}
	return err
}

const (
	failed   = 41 // exit codes of children
	answered = answer.Code
)

// child makes a process, with these flags of clone(2), that makes one call and ends.
func child(flags uintptr, nr uintptr, args ...uintptr) error {
	var a [3]uintptr
	copy(a[:], args)
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 { // nothing but bare calls here: this is a copy of one thread of many
		code := uintptr(answered)
		if _, _, e := unix.RawSyscall(nr, a[0], a[1], a[2]); e != 0 {
			code = failed
		}
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
		}
	}
	return await(int(pid))
}

func await(pid int) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if status.ExitStatus() != answered {
			return fmt.Errorf("child ended with %d", status.ExitStatus())
		}
		return nil
	}
}
