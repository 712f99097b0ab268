package failpoint_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/internal/failpoint"
)

// declared maps the constants of this package to the points they name.
func declared(t *testing.T) map[string]failpoint.Point {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "failpoint.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]failpoint.Point{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if typ, named := specType(spec); ok && named && typ == "Point" {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out[spec.Names[0].Name] = failpoint.Point(value)
		}
		return true
	})
	return out
}

func specType(spec *ast.ValueSpec) (string, bool) {
	if spec == nil {
		return "", false
	}
	id, ok := spec.Type.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}

// hits counts the calls of Hit by the constant they pass.
func hits(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (strings.HasPrefix(e.Name(), ".") && len(e.Name()) > 2 || e.Name() == "testdata") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || filepath.Base(filepath.Dir(path)) == "failpoint" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if pkg, name := selector(call.Fun); pkg == "failpoint" && name == "Hit" {
				_, point := selector(call.Args[0])
				out[point]++
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func selector(e ast.Expr) (pkg, name string) {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	if id, ok := s.X.(*ast.Ident); ok {
		return id.Name, s.Sel.Name
	}
	return "", ""
}

func TestEveryPointIsPassedSomewhere(t *testing.T) {
	names := declared(t)
	var points []failpoint.Point
	called := hits(t)
	for name, p := range names {
		points = append(points, p)
		if called[name] == 0 {
			t.Errorf("no code hits %s", name)
		}
		delete(called, name)
	}
	for name, n := range called {
		t.Errorf("%d calls of Hit pass %q, which is no constant of the package", n, name)
	}
	slices.Sort(points)
	if diff := cmp.Diff(points, failpoint.All()); diff != "" {
		t.Errorf("All and the constants differ (-constants +All)\n%s", diff)
	}
	if len(slices.Compact(points)) != len(names) {
		t.Error("two points have one name")
	}
	if len(points) < 30 {
		t.Errorf("there are %d points, want at least 30", len(points))
	}
}

func build(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-trimpath", "-buildvcs=false", "-o", dir + "/"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %v: %v: %s", args, err, out)
	}
	return dir
}

// What is shipped cannot be told to die: neither the variable's name nor that of any point is in it.
func TestShippedProgramsHaveNone(t *testing.T) {
	if failpoint.Enabled {
		t.Skip("these tests themselves were built with the tag")
	}
	found, err := filepath.Glob("../../cmd/*/main.go")
	if err != nil || len(found) < 3 {
		t.Fatal(found, err)
	}
	var packages []string
	for _, path := range found {
		packages = append(packages, "../../cmd/"+filepath.Base(filepath.Dir(path)))
	}
	dir := build(t, packages...)
	marks := [][]byte{[]byte(failpoint.Armed)} // the beginning of the others too
	for _, p := range failpoint.All() {
		marks = append(marks, []byte(p))
	}
	for _, pkg := range packages {
		data, err := os.ReadFile(filepath.Join(dir, filepath.Base(pkg)))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range marks {
			if bytes.Contains(data, m) {
				t.Errorf("%s contains %q", filepath.Base(pkg), m)
			}
		}
	}
}

func TestArmedProgramDies(t *testing.T) {
	for _, c := range []struct {
		tags, armed, out, trace string
		dies                    bool
	}{
		{"failpoint", "lab.job-created", "", "lab.job-created\n", true},
		{"failpoint", "lab.job-created:3", "01", strings.Repeat("lab.job-created\n", 3), true},
		{"failpoint", "lab.plan-logged", "012", strings.Repeat("lab.job-created\n", 3) + "lab.plan-logged\n", true},
		{"failpoint", "", "012", strings.Repeat("lab.job-created\n", 3) + "lab.plan-logged\n", false},
		{"", "lab.job-created", "012", "", false},
	} {
		dir := build(t, "-tags", c.tags, "./testdata/victim")
		trace := filepath.Join(dir, "trace")
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "victim"))
		cmd.Env = append(os.Environ(), failpoint.Armed+"="+c.armed, failpoint.Trace+"="+trace)
		out, err := cmd.Output()
		var exit *exec.ExitError
		died := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if died != c.dies || string(out) != c.out || !died && err != nil {
			t.Errorf("tags %q, armed %q: died %v with %q, %v", c.tags, c.armed, died, out, err)
		}
		if data, err := os.ReadFile(trace); string(data) != c.trace || err != nil && c.trace != "" {
			t.Errorf("tags %q, armed %q: the trace is %q, %v", c.tags, c.armed, data, err)
		}
	}
}

// Of processes in one environment one dies: the first.
func TestOneOfSeveralDies(t *testing.T) {
	dir := build(t, "-tags", "failpoint", "./testdata/victim")
	for i, want := range []string{"0", "012", "012"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "victim"))
		cmd.Env = append(os.Environ(), failpoint.Armed+"=lab.job-created:2", failpoint.Once+"="+filepath.Join(dir, "dead"))
		if out, err := cmd.Output(); string(out) != want || (err != nil) != (i == 0) {
			t.Errorf("process %d said %q, want %q: %v", i, out, want, err)
		}
	}
}

func TestHeldProgramWaits(t *testing.T) {
	dir := build(t, "-tags", "failpoint", "./testdata/victim")
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(dir, "trace")
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "victim"))
	cmd.Env = append(os.Environ(), failpoint.Held+"=lab.plan-logged:1@/nowhere,lab.job-created:2@"+fifo, failpoint.Trace+"="+trace)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // returns once it is being read
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(trace); string(data) != "lab.job-created\nlab.job-created\n" {
		t.Errorf("at the pipe it has passed %q, %v", data, err)
	}
	if err := errors.Join(f.Close(), cmd.Wait()); err == nil || !strings.HasPrefix(out.String(), "012") { // and ends where there is no pipe
		t.Errorf("let go, it said %q: %v", out.String(), err)
	}
}
