package runner

import (
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"yingzhou.dev/lab/internal/canon"
)

// Limits bound a task. A zero field takes the value of DefaultLimits.
type Limits struct {
	CPUs        float64       // processors' worth of time; a Go worker gets as many threads, rounded up
	MemoryMiB   int64         // page cache of mapped inputs counts too, but is given back when something else needs it
	Pids        int64         // processes and threads
	TmpMiB      int64         // size of /tmp, which counts as memory
	OutputBytes int64         // of standard output
	Deadline    time.Duration // from the worker's start
}

// MinGVisorPids is the least that gVisor can be given of Limits.Pids: its own kernel and the threads with which it runs a
// worker are counted too, and it ends where it gets no more.
const MinGVisorPids = 1024

// DefaultLimits suit a worker that maps inputs of some gigabytes and answers with a digest.
func DefaultLimits() Limits {
	return Limits{CPUs: 1, MemoryMiB: 2048, Pids: 128, TmpMiB: 16, OutputBytes: 1 << 20, Deadline: 30 * time.Minute}
}

// Task is one run of a worker.
type Task struct {
	ID       string            // names the task among all that a Runner has not removed: a letter or digit, then up to 63 of [A-Za-z0-9_.-]
	Image    string            // from Prepare
	Args     []string          // arguments; none means InputFolder alone. Where an argument is InputFolder a back end that cannot mount it puts its own path
	InputDir string            // absolute; the worker sees it read-only at InputFolder. Others must be able to read what is in it (0755, 0644); the folders above may be closed
	Limits   Limits            //
	Labels   map[string]string // for List
	Progress func(line string) // is called with each line on standard error, cut to MaxLine bytes, one at a time; nil = none

	// Stdin is what the worker reads from its standard input, which then ends; nil = nothing. It is the way for secrets: it
	// is in no argument, environment, file, label or fingerprint. A task that has one is not taken up by another process.
	Stdin []byte
	// LinkDir is a folder of Unix sockets; "" = none. The worker sees it read-only at LinkFolder, may connect to the stream
	// sockets in it, and has no other sockets. Absolute, and open to others as InputDir; the sockets' own modes decide who
	// may connect.
	LinkDir string
}

// Bounds on what a worker writes to standard error, in bytes.
const (
	MaxLine   = 4 << 10  // of a line given to Task.Progress
	MaxTail   = 64 << 10 // kept for Result.Stderr
	MaxStderr = 1 << 20  // more ends the task as Output
)

// Causes of a kill, in Result.Killed.
const (
	OOM       = "oom"       // the task needed more than Limits.MemoryMiB
	Deadline  = "deadline"  // Limits.Deadline passed
	Output    = "output"    // more than Limits.OutputBytes, or than MaxStderr, was written
	Outside   = "outside"   // by whoever keeps the machine or the engine; nothing is wrong with the task
	Cancelled = "cancelled" // by Kill, Remove or the end of Run's context
)

// Result is how a task ended.
type Result struct {
	Exit      int       // the worker's exit code; 128 plus the signal's number if a signal ended it
	Killed    string    // why it was killed; empty if it ended by itself
	Stdout    []byte    // at most Limits.OutputBytes
	Stderr    []byte    // the last MaxTail bytes
	Started   time.Time //
	Ended     time.Time //
	Isolation Isolation // what was in force for this run
	Adopted   bool      // an earlier process started it, so the beginning of the output may be missing
}

// Err is nil if the worker ended by itself with exit code 0, or says why it did not, with its last words.
func (r Result) Err() error {
	if r.Killed == "" && r.Exit == 0 {
		return nil
	}
	text := fmt.Sprintf("worker ended with code %d", r.Exit)
	if r.Killed != "" {
		text = fmt.Sprintf("worker was killed: %s", r.Killed)
	}
	words := strings.TrimSpace(string(r.Stderr))
	if words == "" {
		return fmt.Errorf("%s", text)
	}
	words = words[strings.LastIndexByte(words, '\n')+1:]
	if len(words) > 500 {
		words = words[:500]
	}
	return fmt.Errorf("%s: %q", text, words)
}

// Isolation says what stood between a worker and the machine.
type Isolation struct {
	Backend     string   // "process", or "docker/" and the runtime's name
	Development bool     // not fit for production
	Protections []string // sorted; only what was really applied
}

// String is the form in receipts.
func (i Isolation) String() string {
	s := i.Backend
	if i.Development {
		s += " (development only)"
	}
	if len(i.Protections) == 0 {
		return s + ": none"
	}
	return s + ": " + strings.Join(i.Protections, ", ")
}

// Has reports whether a protection was applied.
func (i Isolation) Has(protection string) bool { return slices.Contains(i.Protections, protection) }

// With is the isolation with one protection more.
func (i Isolation) With(protection string) Isolation {
	i.Protections = append(slices.Clone(i.Protections), protection)
	slices.Sort(i.Protections)
	return i
}

// Without is the isolation with one protection less.
func (i Isolation) Without(protection string) Isolation {
	i.Protections = slices.DeleteFunc(slices.Clone(i.Protections), func(p string) bool { return p == protection })
	return i
}

var (
	validID    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	validLabel = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$`)
)

// Check returns the task with its defaults filled in, or an error that wraps ErrInvalid. Back ends call it first.
func (t Task) Check() (Task, error) {
	fault := func(format string, args ...any) (Task, error) {
		return Task{}, fmt.Errorf("task %q: %w: %s", t.ID, ErrInvalid, fmt.Sprintf(format, args...))
	}
	if !validID.MatchString(t.ID) {
		return fault("its ID must match %s", validID)
	}
	if t.Image == "" {
		return fault("it names no image: Prepare returns one")
	}
	if t.InputDir = filepath.Clean(t.InputDir); !filepath.IsAbs(t.InputDir) {
		return fault("input folder %q is not absolute", t.InputDir)
	}
	if err := checkInput(t.InputDir); err != nil {
		return fault("input folder: %v", err)
	}
	for _, a := range t.Args {
		if strings.ContainsRune(a, 0) {
			return fault("an argument has a zero byte")
		}
	}
	if t.LinkDir != "" {
		if t.LinkDir = filepath.Clean(t.LinkDir); !filepath.IsAbs(t.LinkDir) {
			return fault("link folder %q is not absolute", t.LinkDir)
		}
		if err := checkLinks(t.LinkDir); err != nil {
			return fault("link folder: %v", err)
		}
	}
	for k, v := range t.Labels {
		if !validLabel.MatchString(k) || len(v) > 256 {
			return fault("label %q must match %s and have at most 256 bytes", k, validLabel)
		}
	}
	if err := t.Limits.fill(); err != nil {
		return fault("%v", err)
	}
	if len(t.Args) == 0 {
		t.Args = []string{InputFolder}
	}
	t.Args, t.Labels = slices.Clone(t.Args), maps.Clone(t.Labels)
	return t, nil
}

// checkInput walks the folder, which holds a handful of files. A link could lead anywhere, and what is closed to others is
// closed to the worker; better to say so here than have the worker say something else in each back end.
func checkInput(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case path == dir && !info.IsDir():
			return fmt.Errorf("%q is not a folder", path)
		case !info.IsDir() && !info.Mode().IsRegular():
			return fmt.Errorf("%q is neither a file nor a folder: put the file itself there", path)
		case info.IsDir() && info.Mode()&0o005 != 0o005, info.Mode()&0o004 == 0:
			return fmt.Errorf("%q is closed to the worker: make it readable for others", path)
		}
		return nil
	})
}

// checkLinks insists on a folder of sockets and nothing else: what the worker may connect to is what lies there when it
// starts, and its maker should see it listed.
func checkLinks(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode()&0o005 != 0o005 {
		return fmt.Errorf("%q is no folder that others may enter", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket {
			return fmt.Errorf("%q is no socket", filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

// fill puts defaults for zeros and refuses what no machine could keep.
func (l *Limits) fill() error {
	d := DefaultLimits()
	if l.CPUs == 0 {
		l.CPUs = d.CPUs
	}
	if !(l.CPUs >= 0.01 && l.CPUs <= 1024) { // also refuses NaN
		return fmt.Errorf("%v CPUs is not within 0.01 and 1024", l.CPUs)
	}
	if l.Deadline == 0 {
		l.Deadline = d.Deadline
	}
	if l.Deadline < 0 {
		return fmt.Errorf("deadline %v is negative", l.Deadline)
	}
	for _, f := range []struct {
		name           string
		value          *int64
		zero, min, max int64
	}{
		{"memory (MiB)", &l.MemoryMiB, d.MemoryMiB, 16, 1 << 24},
		{"pids", &l.Pids, d.Pids, 8, 1 << 15}, // a Go program has about six threads before it does anything
		{"tmp (MiB)", &l.TmpMiB, d.TmpMiB, 1, 1 << 14},
		{"output (bytes)", &l.OutputBytes, d.OutputBytes, 1, 1 << 32},
	} {
		if *f.value == 0 {
			*f.value = f.zero
		}
		if *f.value < f.min || *f.value > f.max {
			return fmt.Errorf("%s of %d is not within %d and %d", f.name, *f.value, f.min, f.max)
		}
	}
	return nil
}

// CPUSeconds is more processor time than a task can use before its deadline: what still runs then has lost its lab.
func (l Limits) CPUSeconds() int64 {
	return int64(math.Ceil(l.Deadline.Seconds()*math.Ceil(l.CPUs))) + 10
}

// Env is all that a worker finds in its environment. It sees neither /proc nor /sys, so a Go worker must be told
// how many processors it has and when to collect garbage: at seven eighths of its memory, before the kernel kills it.
func (l Limits) Env() []string {
	return []string{
		"HOME=/tmp", "TMPDIR=/tmp",
		"GOMAXPROCS=" + strconv.Itoa(int(math.Ceil(l.CPUs))),
		"GOMEMLIMIT=" + strconv.FormatInt(l.MemoryMiB<<20/8*7, 10),
	}
}

// Fingerprint is a digest of everything that makes a task what it is, but for its ID: two tasks that agree in it do the
// same to the same files.
func (t Task) Fingerprint() string {
	text := fmt.Sprintf("%q %q %q %v", t.Image, t.Args, t.InputDir, t.Limits)
	if t.LinkDir != "" {
		text += fmt.Sprintf(" %q", t.LinkDir)
	}
	for _, k := range slices.Sorted(maps.Keys(t.Labels)) {
		text += fmt.Sprintf(" %q=%q", k, t.Labels[k])
	}
	return canon.Sum([]byte(text)).String()
}

// Matches reports whether labels has all of want.
func Matches(labels, want map[string]string) bool {
	for k, v := range want {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
