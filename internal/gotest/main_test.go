package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "module example.test/m\n\ngo 1.26\n"

// gotest runs the tool on a module of one package, with the real go command.
func gotest(t *testing.T, source string, requireAll bool) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": module, "a_test.go": "package a\n\nimport \"testing\"\n\n" + source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var out strings.Builder
	err := run(t.Context(), []string{"-vet=off", "./..."}, requireAll, &out, &out)
	return out.String(), err
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name, source string
		requireAll   bool
		want, not    []string
		fails        bool
	}{
		{"all pass", "func TestA(t *testing.T) { t.Log(\"chatter\") }", true,
			[]string{"ok  \texample.test/m", "tests 1, packages 1, failed packages 0, skipped tests 0\n"}, []string{"chatter", "PASS", "==="}, false},
		{"skipped", "func TestA(t *testing.T) { t.Run(\"b\", func(t *testing.T) { t.Log(\"first\"); t.Skip(\"no daemon\\nanswers\") }) }", false,
			[]string{"skipped tests 1\n  skipped example.test/m TestA/b: no daemon answers\n"}, []string{"first"}, false},
		{"no reason", "func TestA(t *testing.T) { t.SkipNow() }", false, []string{"TestA: no reason was given"}, nil, false},
		{"skipped where nothing may be", "func TestA(t *testing.T) { t.Skip(\"no daemon\") }", true,
			[]string{"skipped example.test/m TestA: no daemon"}, nil, true},
		{"failed", "func TestA(t *testing.T) { t.Error(\"oh\") }\nfunc TestB(t *testing.T) { t.Log(\"chatter\") }", false,
			[]string{"a_test.go:5: oh", "--- FAIL: TestA", "FAIL\texample.test/m", "FAILED  example.test/m TestA"}, []string{"chatter"}, true},
		{"panics", "func TestA(t *testing.T) { panic(\"oh\") }", false, []string{"panic: oh", "FAILED  example.test/m"}, nil, true},
		{"does not compile", "func TestA(t *testing.T) { oh }", false, []string{"undefined: oh", "FAILED  example.test/m"}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := gotest(t, c.source, c.requireAll)
			if (err != nil) != c.fails {
				t.Errorf("it gives %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("the output lacks %q", w)
				}
			}
			for _, n := range c.not {
				if strings.Contains(out, n) {
					t.Errorf("the output has %q", n)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

func TestLinesThatAreNoEvents(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(strings.NewReader("warning: odd\n{\"Action\":\"pass\",\"Package\":\"p\",\"Test\":\"T\"}\n{\"no\":1}\ncut off")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "warning: odd\n{\"no\":1}\ncut off" || r.tests != 1 {
		t.Errorf("%d tests and %q", r.tests, got)
	}
}
