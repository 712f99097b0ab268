package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"yingzhou.dev/lab/sandbox/runner/battery"
	"yingzhou.dev/lab/sandbox/runner/battery/batterytest"
)

// The generated part of the page lies between these lines.
const (
	begin = "<!-- begin: make battery WRITE=1 -->"
	end   = "<!-- end -->"
)

// columns are the back ends of the table.
var columns = []string{"docker/runc", "docker/runsc", "process"}

// compare holds the page against the results, or writes it. Only verdicts count: what refuses first differs with the
// kernel.
func compare(out io.Writer, results map[string]*batterytest.Matrix, write bool) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	head, rest, ok1 := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", page, begin, end)
	}
	if write {
		for _, c := range columns {
			if results[c] == nil {
				return fmt.Errorf("%s is not written: there is no result for %s", page, c)
			}
		}
		return os.WriteFile(page, []byte(head+begin+"\n"+tables(results)+end+tail), 0o644)
	}
	var stale []error
	for _, p := range battery.Probes() {
		for i, c := range columns {
			m := results[c]
			if m == nil {
				continue
			}
			cell := cellOf(old, p.Name, i)
			if now := verdict(p, m); held(cell) != held(now) {
				stale = append(stale, fmt.Errorf("%s says of %s on %s %q, and now it is %q", page, p.Name, c, cell, now))
			}
		}
	}
	if err := errors.Join(stale...); err != nil {
		return fmt.Errorf("%w\nrun `make battery WRITE=1` and read what changed", err)
	}
	fmt.Fprintf(out, "%s is current\n", page)
	return nil
}

// held reports whether a cell says that a probe was stopped.
func held(cell string) bool {
	return cell != "" && !strings.HasPrefix(cell, "**") && !strings.HasPrefix(cell, "_")
}

// cellOf finds a probe's cell for a back end in the generated tables.
func cellOf(tables, probe string, column int) string {
	for line := range strings.Lines(tables) {
		if cells := strings.Split(line, "|"); len(cells) > 3+column && strings.TrimSpace(cells[1]) == "`"+probe+"`" {
			return strings.TrimSpace(cells[3+column])
		}
	}
	return ""
}

// verdict is a probe's cell: what stopped it, or in italics why that nothing did is no escape, or in bold that it escaped.
func verdict(p battery.Probe, m *batterytest.Matrix) string {
	o, ok := m.Hardened[p.Name]
	switch {
	case !ok:
		return "–"
	case !o.Worked:
		return o.How
	case slices.Contains(m.Escaped, p.Name):
		return "**GOT OUT**"
	case p.Known != "":
		return "_not hidden_"
	case p.GVisor != "":
		return "_own memory_"
	}
	return "_own kernel_"
}

// tables are the generated part.
func tables(results map[string]*batterytest.Matrix) string {
	var b strings.Builder
	class := battery.Class("")
	for _, p := range battery.Probes() {
		if p.Class != class {
			class = p.Class
			fmt.Fprintf(&b, "\n### %s%s\n\n| probe | tries to | runc | gVisor | process | alone stopped by, on runc |\n|---|---|---|---|---|---|\n", strings.ToUpper(string(class[:1])), class[1:])
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", p.Name, p.Tries, verdict(p, results[columns[0]]), verdict(p, results[columns[1]]), verdict(p, results[columns[2]]),
			stoppers(p, results[columns[0]]))
	}
	for _, c := range []string{columns[0], columns[2]} {
		m := results[c]
		fmt.Fprintf(&b, "\n### Lines of %s\n\n| line | alone it stops | without it alone, these work |\n|---|---|---|\n", c)
		for _, line := range m.Lines {
			without := strings.Join(m.Removed[line], ", ")
			if len(m.Removed[line]) > 12 {
				without = fmt.Sprintf("%s and %d more", strings.Join(m.Removed[line][:12], ", "), len(m.Removed[line])-12)
			}
			if why := m.Needed[line]; why != "" {
				without = "nothing starts: " + why
			}
			fmt.Fprintf(&b, "| `%s` | %d | %s |\n", line, len(m.Only[line]), without)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// stoppers are the lines each of which stops a probe alone, or what does where no line has to.
func stoppers(p battery.Probe, m *batterytest.Matrix) string {
	switch {
	case p.Known != "":
		return p.Known
	case !m.Base[p.Name] && m.Open[p.Name]:
		return "Docker itself"
	case !m.Base[p.Name] && p.Rare != "":
		return "could succeed on " + p.Rare
	case !m.Base[p.Name]:
		return "Docker itself"
	}
	var lines []string
	for _, line := range m.Lines {
		if slices.Contains(m.Only[line], p.Name) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 && p.Alone {
		return "deadline or output limit"
	}
	return strings.Join(lines, ", ")
}
