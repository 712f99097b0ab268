package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

// crashLab is a lab's folder and how to run commands on it.
type crashLab struct {
	testing.TB
	dir string
}

func newCrashLab(t testing.TB, stage hometest.Stage) crashLab {
	t.Helper()
	l := crashLab{t, filepath.Join(t.TempDir(), "lab")}
	if err := copyLab(t.Context(), stage, l.dir); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l crashLab) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(l.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LAB_DIR="+l.dir)
	return cmd
}

// run runs a command to its end and returns its outputs and exit code.
func (l crashLab) run(args ...string) (stdout, stderr string, code int) {
	l.Helper()
	cmd := l.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		l.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (l crashLab) must(args ...string) string {
	l.Helper()
	out, errs, code := l.run(args...)
	if code != 0 {
		l.Fatalf("%v: exit code %d: %s", args, code, errs)
	}
	return out
}

// when decides, while a command runs, that it is killed now: line is a line of its standard error, tick a look around.
type when struct {
	name string
	line func(string) bool
	tick func() bool
}

// kill runs a command until the point comes, if it comes at all.
func (l crashLab) kill(w when, args ...string) {
	l.Helper()
	cmd := l.command(args...)
	errs, err := cmd.StderrPipe()
	if err != nil {
		l.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(errs); s.Scan(); {
			lines <- s.Text()
		}
	}()
	look := time.NewTicker(500 * time.Microsecond)
	defer look.Stop()
	killed := false
	stop := func(now bool) {
		if now && !killed {
			killed = true
			cmd.Process.Kill() // fails only if it has ended
		}
	}
	for {
		select {
		case line, open := <-lines:
			if !open {
				cmd.Wait() // killed or not: what the lab looks like now is what counts
				return
			}
			stop(w.line != nil && w.line(line))
		case <-look.C:
			stop(w.tick != nil && w.tick())
		}
	}
}

func atLine(text string) when {
	return when{name: "at " + text, line: func(l string) bool { return l == text }}
}

// after kills once a command has run for a part of the time that it takes.
func after(part, of int, whole time.Duration) when {
	start := time.Time{}
	return when{name: fmt.Sprintf("after %d of %d", part, of), tick: func() bool {
		if start.IsZero() {
			start = time.Now()
		}
		return time.Since(start) >= whole*time.Duration(part)/time.Duration(of)
	}}
}

// atChange kills after the n-th change that is seen among files that match the patterns.
func (l crashLab) atChange(n int, patterns ...string) when {
	last, changes := "", -1
	return when{name: fmt.Sprintf("at change %d of %v", n, patterns), tick: func() bool {
		var now strings.Builder
		for _, p := range patterns {
			found, _ := filepath.Glob(filepath.Join(l.dir, p)) // the patterns are constants
			for _, path := range found {
				if info, err := os.Stat(path); err == nil {
					fmt.Fprintln(&now, path, info.Size(), info.ModTime().UnixNano())
				}
			}
		}
		if now.String() != last {
			last = now.String()
			changes++
		}
		return changes >= n
	}}
}

// intact checks what must hold after any crash once the lab was used again.
func (l crashLab) intact() {
	l.Helper()
	var fsck struct{ Blobs int }
	if err := json.Unmarshal([]byte(l.must("lab", "audit", "fsck", "--blobs", "--json")), &fsck); err != nil {
		l.Fatal(err)
	}
	stored := 0
	err := filepath.WalkDir(l.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(l.dir, path)
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), ".tmp-") || strings.HasPrefix(rel, "plane/tmp/") || strings.HasPrefix(rel, "plane/blobs/incoming/") {
			l.Errorf("left behind: %s", rel)
		}
		if strings.HasPrefix(rel, "plane/blobs/blobs/") && e.Type().IsRegular() {
			stored++
		}
		return nil
	})
	if err != nil {
		l.Fatal(err)
	}
	if stored != fsck.Blobs {
		l.Errorf("%d blobs are stored, manifests name %d", stored, fsck.Blobs)
	}
}

// shares reads every stored share.
func (l crashLab) shares() map[string]string {
	found, _ := filepath.Glob(filepath.Join(l.dir, "custodians/*/state/shares/*"))
	out := map[string]string{}
	for _, path := range found {
		if strings.HasPrefix(filepath.Base(path), ".tmp-") {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			l.Fatal(err)
		}
		out[path] = string(data)
	}
	return out
}

// charges checks that every custodian charged once, in every custodian's copy of the ledgers, and that the largest
// charge, which is the one that counts, is ε 1. One that learned of a peer's charge first records that no more is due.
func (l crashLab) charges() {
	l.Helper()
	found, _ := filepath.Glob(filepath.Join(l.dir, "custodians/*/state/ledger.jsonl"))
	if len(found) != 3 {
		l.Fatalf("%d ledgers", len(found))
	}
	for _, path := range found {
		data, err := os.ReadFile(path)
		if err != nil {
			l.Fatal(err)
		}
		count, micro := map[string]int{}, int64(0)
		for line := range strings.Lines(string(data)) {
			var s canon.Signed
			var r release.Record
			if err := canon.Unmarshal([]byte(strings.TrimSuffix(line, "\n")), &s); err != nil {
				l.Fatal(err)
			}
			if err := s.Open(release.KindLedger, &r); err != nil {
				l.Fatal(err)
			}
			if r.Charge != nil {
				count[r.By]++
				micro = max(micro, r.Charge.DatasetMicro)
			}
		}
		if micro != 1_000_000 {
			l.Errorf("%s: charged ε %s", path, enclave.FormatScaled(micro, 6))
		}
		for by, n := range count {
			if n != 1 {
				l.Errorf("%s: %s charged %d times", path, by, n)
			}
		}
	}
}

func (l crashLab) jobs() (out []jobView) {
	l.Helper()
	if err := json.Unmarshal([]byte(l.must("lab", "job", "list", "--json")), &out); err != nil {
		l.Fatal(err)
	}
	return out
}

// finish takes the killed job up, or asks again where nothing was promised yet, and returns the released table.
func (l crashLab) finish() string {
	l.Helper()
	jobs := l.jobs()
	if len(jobs) > 1 {
		l.Fatalf("one command made %d jobs", len(jobs))
	}
	if len(jobs) == 1 {
		_, errs, code := l.run("lab", "job", "watch", string(jobs[0].ID))
		if code == 0 {
			return l.must("lab", "release", "get", string(jobs[0].ID), "--format", "csv")
		}
		if now := l.jobs()[0]; jobs[0].State != sandbox.Queued || now.State != sandbox.Failed || !strings.Contains(errs, "submit it again") {
			l.Fatalf("job was %s, is %s: %s", jobs[0].State, now.State, errs)
		}
	}
	return l.ask("1")
}

// ask submits the query and returns the table; charged is what the dataset must be charged.
func (l crashLab) ask(charged string) string {
	l.Helper()
	var res struct {
		Job     string `json:"job"`
		Charged string `json:"charged_epsilon"`
	}
	if err := json.Unmarshal([]byte(l.must("lab", "job", "submit", "--scenario", hometest.Scenario, "--json", crashQuery)), &res); err != nil {
		l.Fatal(err)
	}
	if res.Charged != charged {
		l.Errorf("charged ε %s, want %s", res.Charged, charged)
	}
	return l.must("lab", "release", "get", res.Job, "--format", "csv")
}
