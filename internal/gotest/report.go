package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is one line of go test -json (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // instead of Package, of what was built
	Test       string
	Output     string
}

// report gathers events. A package's output is held until it ends, since packages run at the same time.
type report struct {
	out     io.Writer
	running map[string]*packageRun
	tests   int
	pkgs    int
	failed  []name
	skipped []skip
}

type name struct{ pkg, test string }

type skip struct {
	name
	why string
}

type packageRun struct {
	own   strings.Builder // what the package as a whole wrote
	order []string
	tests map[string]*strings.Builder // tests that have not passed, with what they wrote
}

func newReport(out io.Writer) *report {
	return &report{out: out, running: map[string]*packageRun{}}
}

// read takes events until their end. Lines that are none are passed on as they are.
func (r *report) read(events io.Reader) error {
	in := bufio.NewReader(events)
	for {
		line, err := in.ReadBytes('\n')
		var e event
		switch {
		case len(line) == 0:
		case json.Unmarshal(line, &e) == nil && e.Action != "":
			r.add(e)
		default:
			r.out.Write(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading events: %w", err)
		}
	}
}

func (r *report) add(e event) {
	if e.Action == "build-output" {
		io.WriteString(r.out, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := r.running[e.Package]
	if p == nil {
		p = &packageRun{tests: map[string]*strings.Builder{}}
		r.running[e.Package] = p
	}
	id := name{e.Package, e.Test}
	switch e.Action {
	case "output":
		p.write(e.Test, e.Output)
	case "pass", "skip", "fail":
		if e.Test == "" {
			r.end(e.Package, p, e.Action)
			return
		}
		r.tests++
		switch e.Action {
		case "pass":
			delete(p.tests, e.Test)
		case "skip":
			r.skipped = append(r.skipped, skip{id, p.reason(e.Test)})
			delete(p.tests, e.Test)
		case "fail":
			r.failed = append(r.failed, id)
		}
	}
}

func (p *packageRun) write(test, text string) {
	if strings.HasPrefix(text, "=== ") || text == "PASS\n" {
		return
	}
	if test == "" {
		if !strings.HasSuffix(text, "[no test files]\n") {
			p.own.WriteString(text)
		}
		return
	}
	b := p.tests[test]
	if b == nil {
		b = &strings.Builder{}
		p.tests[test] = b
		p.order = append(p.order, test)
	}
	b.WriteString(text)
}

// end prints a package. Where it failed, every test that did not pass is shown: the ones still running may be why.
func (r *report) end(pkg string, p *packageRun, action string) {
	delete(r.running, pkg)
	if action != "skip" { // a package is skipped if it has no tests
		r.pkgs++
	}
	if action == "fail" {
		r.failed = append(r.failed, name{pkg: pkg})
		for _, test := range p.order {
			if b := p.tests[test]; b != nil {
				io.WriteString(r.out, b.String())
			}
		}
	}
	io.WriteString(r.out, p.own.String())
}

var logged = regexp.MustCompile(`^\s+\S+\.go:\d+: `)

// reason is what a test logged last, which may go over several lines.
func (p *packageRun) reason(test string) string {
	b := p.tests[test]
	if b == nil {
		return ""
	}
	var why []string
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(strings.TrimSpace(line), "--- SKIP") {
			continue
		}
		if at := logged.FindString(line); at != "" {
			why, line = nil, line[len(at):]
		}
		why = append(why, strings.TrimSpace(line))
	}
	return strings.Join(why, " ")
}

// summary is the last thing to be read.
func (r *report) summary() {
	failed := map[string]int{}
	for _, f := range r.failed {
		failed[f.pkg]++
	}
	fmt.Fprintf(r.out, "\ntests %d, packages %d, failed packages %d, skipped tests %d\n", r.tests, r.pkgs, len(failed), len(r.skipped))
	slices.SortFunc(r.skipped, func(a, b skip) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.test, b.test))
	})
	for _, s := range r.skipped {
		fmt.Fprintf(r.out, "  skipped %s %s: %s\n", s.pkg, s.test, cmp.Or(s.why, "no reason was given"))
	}
	for _, f := range r.failed {
		if f.test != "" {
			fmt.Fprintf(r.out, "  FAILED  %s %s\n", f.pkg, f.test)
		} else if failed[f.pkg] == 1 { // no test of it is named: it did not build, or broke off
			fmt.Fprintf(r.out, "  FAILED  %s\n", f.pkg)
		}
	}
}
