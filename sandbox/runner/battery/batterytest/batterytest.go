// Package batterytest runs the battery on a back end as it is, with each line of hardening removed alone, with each line
// alone, and with none, and keeps what came of it for docs/ISOLATION.md.
package batterytest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/battery"
)

// Folder is the environment variable that asks for everything and names the folder for the results.
const Folder = "LAB_BATTERY"

// Backend is what is attacked.
type Backend struct {
	Name  string
	Lines []string
	// Open returns the back end with the lines for which keep holds. Without base it also lacks what can be taken off it
	// only as a whole.
	Open func(t *testing.T, keep func(line string) bool, base bool) runner.Runner
	// Alone says for a line which probes of that kind it bears on; they take seconds and are left out elsewhere.
	Alone map[string][]string
	// Held names probes of that kind that are not tried on the open back end, because the machine would suffer.
	Held []string
	// With says for a line without which other it cannot be, or does nothing.
	With map[string]string
	// Brief leaves out the runs with one line alone.
	Brief bool
	// Needed says for a line why nothing starts without it alone.
	Needed map[string]string
}

// Matrix is what came of it.
type Matrix struct {
	Backend   string                     `json:"backend"`
	Isolation string                     `json:"isolation"`
	Hardened  map[string]battery.Outcome `json:"hardened"`
	Escaped   []string                   `json:"escaped"` // of Hardened
	Base      map[string]bool            `json:"base"`    // what works with no line
	Open      map[string]bool            `json:"open"`    // what works with no line and no base
	Removed   map[string][]string        `json:"removed"` // line → what works without it and not with it
	Only      map[string][]string        `json:"only"`    // line → what it alone stops
	Needed    map[string]string          `json:"needed"`  // line → why nothing starts without it
}

// Full reports whether everything was asked for. Otherwise a test attacks the back end as it is, and no more.
func Full() bool { return os.Getenv(Folder) != "" }

// Run attacks. Escapes from the back end as it is fail the test.
func Run(t *testing.T, hostile string, b Backend) {
	t.Helper()
	if testing.Short() {
		t.Skip("the battery takes too long with -short")
	}
	try := func(id string, keep func(string) bool, base, bounded bool, alone []string) (*battery.Report, error) {
		return battery.Run(t.Context(), battery.Config{Runner: b.Open(t, keep, base), Hostile: hostile, ID: "battery-" + id, Unbounded: !bounded,
			Alone: func(p battery.Probe) bool {
				return alone == nil && (bounded || !slices.Contains(b.Held, p.Name)) || slices.Contains(alone, p.Name)
			}})
	}
	attack := func(t *testing.T, id string, keep func(string) bool, base, bounded bool, alone []string) *battery.Report {
		t.Helper()
		report, err := try(id, keep, base, bounded, alone)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	all := func(string) bool { return true }
	none := func(string) bool { return false }
	m := Matrix{Backend: b.Name, Hardened: map[string]battery.Outcome{}, Removed: map[string][]string{}, Only: map[string][]string{}, Needed: map[string]string{}}
	hardened := attack(t, "hardened", all, true, true, nil)
	m.Isolation = hardened.Isolation.String()
	for _, r := range hardened.Results {
		m.Hardened[r.Probe.Name] = r.Outcome
		if r.Escaped {
			m.Escaped = append(m.Escaped, r.Probe.Name)
			t.Errorf("%s got out: it could %s", r.Probe.Name, r.Probe.Tries)
		}
	}
	t.Logf("%s: %d probes, %d escaped", m.Isolation, len(hardened.Results), len(m.Escaped))
	if !Full() {
		return
	}
	base := attack(t, "base", none, true, false, nil).Worked()
	m.Base = base
	alone := map[string]map[string]bool{"": base} // what works with one line
	m.Open = attack(t, "open", none, false, false, nil).Worked()
	with := hardened.Worked()
	for _, line := range b.Lines {
		solo := append([]string{}, b.Alone[line]...)
		others := func(l string) bool { return l != line }
		if why, ok := b.Needed[line]; ok {
			if _, err := try("without-"+line, others, true, true, solo); err == nil {
				t.Errorf("without %s the worker starts, although %s", line, why)
			}
			m.Needed[line] = why
		} else {
			m.Removed[line] = minus(attack(t, "without-"+line, others, true, true, solo).Worked(), with)
		}
		if !b.Brief {
			other := b.With[line]
			only := attack(t, "only-"+line, func(l string) bool { return l == line || l == other }, true, false, solo).Worked()
			alone[line] = only
			m.Only[line] = slices.DeleteFunc(minus(alone[other], only), func(name string) bool { return isAlone(name) && !slices.Contains(solo, name) })
		}
		t.Logf("without %s: %v; alone it stops %v", line, m.Removed[line], m.Only[line])
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv(Folder), strings.ReplaceAll(b.Name, "/", "-")+".json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func isAlone(name string) bool {
	return slices.ContainsFunc(battery.Probes(), func(p battery.Probe) bool { return p.Name == name && p.Alone })
}

// minus lists what is in a and not in b.
func minus(a, b map[string]bool) []string {
	out := []string{}
	for name := range a {
		if !b[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
