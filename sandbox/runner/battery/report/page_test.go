package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/sandbox/runner/battery"
	"yingzhou.dev/lab/sandbox/runner/battery/batterytest"
)

// TestPage holds docs/ISOLATION.md against the table of probes: it has every probe, in order, as the code describes it,
// with a result for each back end, and no result is an escape. That results are still true is for make battery.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	var have, want [][2]string
	row := regexp.MustCompile("^\\| `([a-z0-9-]+)` \\| ([^|]+) \\| ([^|]+) \\| ([^|]+) \\| ([^|]+) \\|")
	for line := range strings.Lines(string(text)) {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		have = append(have, [2]string{m[1], m[2]})
		for _, cell := range m[3:6] {
			if strings.TrimSpace(cell) == "" || strings.Contains(cell, "**") {
				t.Errorf("%s: %q", m[1], cell)
			}
		}
	}
	for _, p := range battery.Probes() {
		want = append(want, [2]string{p.Name, p.Tries})
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("the page has other probes than the code (-code +page): make battery WRITE=1\n%s", diff)
	}
	if len(want) < 90 {
		t.Errorf("%d probes, at least 90 are promised", len(want))
	}
}

func TestVerdicts(t *testing.T) {
	m := &batterytest.Matrix{Hardened: map[string]battery.Outcome{"a": {How: "EPERM"}, "b": {Worked: true}, "c": {Worked: true}}, Escaped: []string{"b"}}
	for name, want := range map[string]string{"a": "EPERM", "b": "**GOT OUT**", "c": "_own kernel_", "d": "–"} {
		if got := verdict(battery.Probe{Name: name}, m); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	table := "| `a` | tries | EPERM | _own kernel_ | **GOT OUT** | x |\n"
	for column, want := range []bool{true, false, false} {
		if got := held(cellOf(table, "a", column)); got != want {
			t.Errorf("column %d: %t", column, got)
		}
	}
	if cellOf(table, "b", 0) != "" {
		t.Error("a cell of a probe that is not there")
	}
	if got := idle(map[string]*batterytest.Matrix{"x": {Base: map[string]bool{"fork": true}}}); len(got) == 0 || strings.Contains(strings.Join(got, " "), "fork") {
		t.Errorf("idle: %v", got)
	}
}
