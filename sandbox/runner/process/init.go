package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner/internal/seccomp"
)

// marker is argv[0] of the init stage.
const marker = "yingzhou-sandbox-init"

// File descriptors of the init stage. 0 to 2 are the worker's.
const (
	fdSpec = 3 + iota
	fdReport
	fdProgram
	fdInput
	fdLinks // only of a task that has some
)

// initCalled guards against programs that forgot Init: executed again they would run as themselves, and again.
var initCalled atomic.Bool

// Init must come first in main, and in TestMain, of every program that opens this back end. In the init stage it builds
// the sandbox, becomes the worker and does not return; otherwise it does nothing.
func Init() {
	initCalled.Store(true)
	if len(os.Args) == 0 || os.Args[0] != marker {
		return
	}
	// What is applied here is applied to this thread. Executing the worker from it ends all others.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	stage()
	os.Exit(125)
}

// spec is what the init stage is told. It arrives on fdSpec when the process is in its cgroups, so none of the work
// below, nor the worker, escapes them.
type spec struct {
	Probe     bool     `json:"probe"` // apply everything, report, and end
	Level     level    `json:"level"`
	Args      []string `json:"args"`
	Env       []string `json:"env"`
	Input     string   `json:"input"` // path of the folder; used if it did not come as a mount
	InputTree bool     `json:"tree"`  // fdInput is a detached mount
	Links     string   `json:"links"` // path of the folder with sockets; "" = none
	LinksTree bool     `json:"links_tree"`
	TmpMiB    int64    `json:"tmp"`
	MemoryMiB int64    `json:"memory"`
	CPU       uint64   `json:"cpu"`     // RLIMIT_CPU, in seconds: more than the deadline allows
	Threads   uint64   `json:"threads"` // RLIMIT_NPROC; 0 = a cgroup counts them

	Without []string `json:"without"` // layers to leave out; set by tests only, to see what each is for
}

func (s *spec) with(layer string) bool { return !slices.Contains(s.Without, layer) }

// report is what the init stage says. There is one before the worker is executed, and another only if that failed.
type report struct {
	Applied []string `json:"applied"`
	Refused []string `json:"refused"` // what the kernel would not do, with reasons
	Error   string   `json:"error"`   // the level cannot be had
}

// note records the outcome of one layer that a worker may run without.
func (r *report) note(layer string, err error) {
	if err != nil {
		r.Refused = append(r.Refused, fmt.Sprintf("%s: %v", layer, err))
		return
	}
	r.Applied = append(r.Applied, layer)
}

func (r *report) send() {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = unix.Write(fdReport, line)
	}
	if err != nil {
		os.Exit(125) // the parent sees the pipe closed without a word
	}
}

// stage builds the sandbox in the only possible order: mounts need capabilities, Landlock forbids mounts, giving
// capabilities up must come after both, and the filter last, because it refuses nearly every call made here.
func stage() {
	var rep report
	s, err := readSpec()
	if err == nil {
		err = s.build(&rep)
	}
	if err != nil {
		rep.Error = err.Error()
		rep.send()
		return
	}
	argv, env, err := s.vectors()
	if err != nil {
		rep.Error = err.Error()
		rep.send()
		return
	}
	if s.with("files-closed") {
		s.keepFiles()
	}
	if filter := seccomp.Filter(os.Getpid(), fdProgram, s.Links != ""); s.with("seccomp") {
		rep.note("seccomp", seccomp.Load(filter))
	}
	rep.send()
	if s.Probe {
		unix.Exit(0) // at once; the race detector's own end takes a second
	}
	empty := [1]byte{}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, fdProgram, uintptr(unsafe.Pointer(&empty)), uintptr(unsafe.Pointer(&argv[0])),
		uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(env)
	rep = report{Error: fmt.Sprintf("executing the worker: %v", errno)}
	rep.send()
}

func (s *spec) build(rep *report) error {
	for _, n := range s.Level.namespaces() {
		rep.note("namespace-"+n, nil)
	}
	if s.with("oom-first") {
		rep.note("oom-first", os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0))
	}
	if s.Level.mounts() {
		if err := s.mount(); err != nil {
			return err
		}
		for _, layer := range []string{"input-readonly", "root-readonly", "tmp-noexec"} {
			if s.with(layer) {
				rep.note(layer, nil)
			}
		}
		// A name that tells nothing; the host's was copied into the namespace.
		if err := unix.Sethostname([]byte("worker")); err != nil {
			return fmt.Errorf("setting the host name: %w", err)
		}
	} else if s.Level.Spaces {
		// Tests only. What is mounted in spite of everything must not show on the host.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("making mounts private: %w", err)
		}
	}
	if !s.Level.mounts() {
		if err := unix.Fchdir(fdInput); err != nil {
			return fmt.Errorf("entering the input folder: %w", err)
		}
	}
	if s.with("rlimits") {
		rep.note("rlimits", s.rlimits())
	}
	if s.Level.Switch {
		rep.note("user-unprivileged", becomeNobody())
	} else if s.Level.HostUID != 0 {
		rep.note("user-unprivileged", nil)
	}
	if s.with("capabilities-none") {
		rep.note("capabilities-none", dropCapabilities())
	}
	// Changing users clears this; the worker must not outlive the lab.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tying the worker to its parent: %w", err)
	}
	if s.with("no-new-privileges") {
		rep.note("no-new-privileges", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	}
	if s.with("landlock") {
		abi, err := restrictPaths(s.Level.mounts())
		rep.note(fmt.Sprintf("landlock-v%d", abi), err)
	}
	return nil
}

func readSpec() (*spec, error) {
	f := os.NewFile(fdSpec, "spec")
	defer f.Close()
	var s spec
	dec := json.NewDecoder(f)
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("reading the task: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading the task: something follows it")
	}
	return &s, nil
}

// vectors makes the arguments of execveat(2) while memory may still be had.
func (s *spec) vectors() (argv, env []*byte, err error) {
	if argv, err = unixStrings(append([]string{"worker"}, s.Args...)); err != nil {
		return nil, nil, err
	}
	env, err = unixStrings(s.Env)
	return argv, env, err
}

func unixStrings(list []string) ([]*byte, error) {
	out := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", s, err)
		}
		out = append(out, p)
	}
	return append(out, nil), nil
}

// keepFiles has everything but the standard streams closed on execution. Without a mount the worker's arguments name
// its folders through fdInput and fdLinks, which then stay.
func (s *spec) keepFiles() {
	unix.CloseOnExec(fdReport)
	unix.CloseOnExec(fdProgram)
	first := uint(fdInput)
	if !s.Level.mounts() {
		if first++; s.Links != "" {
			first++
		}
	}
	// Also whatever a parent may have leaked; since Linux 5.11.
	if unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) != nil {
		for fd := int(first); fd <= fdLinks; fd++ {
			unix.CloseOnExec(fd)
		}
	}
}
