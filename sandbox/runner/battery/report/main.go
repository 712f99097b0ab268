// Report attacks every back end that this machine has, with each line of hardening removed and alone, and prints what held.
// It ends with "battery: N passed, M failed": a probe that got out is a failure, and so is one that could not have got out
// anywhere. A back end that is missing is named.
//
//	go run ./sandbox/runner/battery/report            attack, and compare with docs/ISOLATION.md
//	go run ./sandbox/runner/battery/report -write     attack, and bring docs/ISOLATION.md up to date
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"

	"yingzhou.dev/lab/sandbox/runner/battery"
	"yingzhou.dev/lab/sandbox/runner/battery/batterytest"
)

// suites are the tests that attack, with the files in which they leave their results.
var suites = []struct{ name, pkg, test, file string }{
	{"docker/runc", "./sandbox/runner/docker", "TestBattery", "docker-runc.json"},
	{"docker/runsc", "./sandbox/runner/docker", "TestBatteryGVisor", "docker-runsc.json"},
	{"process", "./sandbox/runner/process", "TestBattery", "process.json"},
	{"docker/runc, in a group", "./sandbox/runner/docker", "TestGroupBattery", ""},
}

// page is where the results are for people, from the module's root.
const page = "docs/ISOLATION.md"

func main() {
	write := flag.Bool("write", false, "bring "+page+" up to date")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *write); err != nil {
		fmt.Fprintln(os.Stderr, "battery:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, write bool) (err error) {
	dir, err := os.MkdirTemp("", "lab-battery-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	results := map[string]*batterytest.Matrix{}
	passed, failed := 0, 0
	for _, s := range suites {
		text, attacked := attack(ctx, dir, s.pkg, s.test)
		m, missing := load(filepath.Join(dir, s.file), s.file, text)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case attacked != nil:
			fmt.Fprintf(out, "%s FAILED:\n%s\n", s.name, text)
			failed++
		case missing != "":
			fmt.Fprintf(out, "%-24s MISSING: %s\n", s.name, missing)
		case m == nil:
			fmt.Fprintf(out, "%-24s its members reach each other and nothing else\n", s.name)
			passed++
		default:
			results[s.name] = m
			fmt.Fprintf(out, "%-24s %d probes, %d got out\n", s.name, len(m.Hardened), len(m.Escaped))
			passed += len(m.Hardened) - len(m.Escaped)
			failed += len(m.Escaped)
		}
	}
	for _, p := range idle(results) {
		fmt.Fprintf(out, "probe %s could not get out anywhere: it shows nothing, and nothing says on which machine it could\n", p)
		failed++
	}
	for _, l := range needless(results) {
		fmt.Fprintf(out, "%s\n", l)
	}
	if err := compare(out, results, write); err != nil {
		fmt.Fprintln(out, err)
		failed++
	}
	fmt.Fprintf(out, "battery: %d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return fmt.Errorf("%d failures", failed)
	}
	return nil
}

// attack runs one test with everything on.
func attack(ctx context.Context, dir, pkg, test string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout", "15m", "-v", "-run", "^"+test+"$", pkg)
	cmd.Env = append(os.Environ(), batterytest.Folder+"="+dir)
	cmd.WaitDelay = 0
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

var reason = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`)

// load reads a result, or says from the test's output why there is none.
func load(path, file, text string) (m *batterytest.Matrix, missing string) {
	skipped := strings.Contains(text, "--- SKIP")
	data, err := os.ReadFile(path)
	switch {
	case skipped:
		if found := reason.FindStringSubmatch(text); found != nil {
			return nil, found[1]
		}
		return nil, "the test was skipped"
	case file == "" || errors.Is(err, fs.ErrNotExist):
		return nil, ""
	case err != nil:
		return nil, err.Error()
	}
	m = &batterytest.Matrix{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, err.Error()
	}
	return m, ""
}

// idle are the probes that succeeded nowhere, whatever was taken off, and of which the table does not say why.
func idle(results map[string]*batterytest.Matrix) (names []string) {
	if len(results) == 0 {
		return nil
	}
	for _, p := range battery.Probes() {
		worked := p.Rare != ""
		for _, m := range results {
			worked = worked || m.Base[p.Name] || m.Open[p.Name]
		}
		if !worked {
			names = append(names, p.Name)
		}
	}
	return names
}

// needless says of each back end which lines stop no probe, alone or together with the rest.
func needless(results map[string]*batterytest.Matrix) (out []string) {
	for _, s := range suites {
		m := results[s.name]
		if m == nil || len(m.Only) == 0 {
			continue
		}
		var names []string
		for _, line := range m.Lines {
			if len(m.Only[line]) == 0 && len(m.Removed[line]) == 0 && m.Needed[line] == "" {
				names = append(names, line)
			}
		}
		if len(names) > 0 {
			out = append(out, fmt.Sprintf("%-24s stops no probe: %s (%s says what for)", s.name, strings.Join(names, ", "), page))
		}
	}
	return out
}
