package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/xuri/excelize/v2"
	"golang.org/x/text/encoding/simplifiedchinese"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/examples/care/generator"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/process"
)

// programs is the folder where TestMain built seal and worker.
const programs = "LABTEST_PROGRAMS"

// TestMain runs this test program as lab too, in scripts and in children that are killed.
func TestMain(m *testing.M) {
	process.Init() // this program is what a sandbox of its own is made from
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	testscript.Main(building{m}, map[string]func(){"lab": asLab})
}

// asLab is lab with a clock that LABTEST_SHIFT sets forward.
func asLab() {
	shift, err := time.ParseDuration(envOr("LABTEST_SHIFT", "0s"))
	if err != nil {
		panic(err)
	}
	a := &app{out: os.Stdout, errs: os.Stderr, clock: func() time.Time { return time.Now().Add(shift) }}
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// building builds the programs once before the tests run: a worker is always a program of its own.
type building struct{ m *testing.M }

func (b building) Run() int {
	dir, err := os.MkdirTemp("", "labtest-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = hometest.Build(context.Background(), dir, "seal", "worker", "node", "sandbox/runner/battery/hostile")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv(programs, dir)
	os.Setenv("LAB_WORKER", filepath.Join(dir, "worker"))
	os.Setenv("LAB_HOSTILE", filepath.Join(dir, "hostile"))
	os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	return b.m.Run()
}

func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	if testing.Short() { // those in which most goes on at once; most commands do one thing after another
		scripts = []string{"testdata/audit.txt", "testdata/collect.txt", "testdata/custodians.txt", "testdata/job.txt", "testdata/joint.txt"}
	}
	testscript.Run(t, testscript.Params{
		Files:               scripts,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LAB_WORKER", os.Getenv("LAB_WORKER"))
			env.Setenv("LAB_HOSTILE", os.Getenv("LAB_HOSTILE"))
			env.Setenv("HOSTILE", os.Getenv("LAB_HOSTILE"))
			env.Setenv("LAB_DIR", filepath.Join(env.WorkDir, "lab"))
			env.Setenv("SCHEMA", filepath.Join(env.WorkDir, ".health.json"))
			return writeSchema(env.Getenv("SCHEMA"))
		},
		Condition: func(name string) (bool, error) {
			if name != "engine" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			r, err := docker.Open(context.Background(), docker.Config{Instance: "condition"})
			if err != nil && os.Getenv("LAB_REQUIRE_ALL") == "1" {
				return false, err
			}
			return err == nil && r.Close() == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"given":   given,
			"root":    root,
			"code":    code,
			"count":   count,
			"flip":    flip,
			"table":   tableFile,
			"replace": replace,
			"capture": capture,
			"gb18030": gb18030,
			"xlsx":    xlsx,
			"people":  people,
		},
	})
}

func writeSchema(path string) error {
	data, err := examples.Files.ReadFile("health/schema.json")
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// stages are the labs that scripts and crash tests start from, each made once.
var stages = struct {
	sync.Mutex
	dirs map[hometest.Stage]string
}{dirs: map[hometest.Stage]string{}}

// copyLab puts a copy of a lab at that stage into dir.
func copyLab(ctx context.Context, stage hometest.Stage, dir string) error {
	stages.Lock()
	defer stages.Unlock()
	from := stages.dirs[stage]
	if from == "" {
		from = filepath.Join(os.Getenv(programs), fmt.Sprint("lab-", stage))
		if err := hometest.Make(ctx, from, hometest.Options{Stage: stage, ScenarioMicro: 3_000_000}); err != nil {
			return err
		}
		stages.dirs[stage] = from
	}
	return os.CopyFS(dir, os.DirFS(from))
}

// given makes $LAB_DIR a lab: given founded|staffed|sealed|licensed|approved.
func given(ts *testscript.TestScript, neg bool, args []string) {
	stage, ok := map[string]hometest.Stage{"founded": hometest.Founded, "staffed": hometest.Staffed, "sealed": hometest.Sealed,
		"licensed": hometest.Licensed, "approved": hometest.Approved}[args[0]]
	if !ok || neg {
		ts.Fatalf("usage: given founded|staffed|sealed|licensed|approved")
	}
	ts.Check(copyLab(context.Background(), stage, ts.Getenv("LAB_DIR")))
}

// code runs a command that has to end with an exit code: code N command args...
func code(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg || want == 0 {
		ts.Fatalf("usage: code N command args...; commands that end well are run with exec")
	}
	// exec leaves stdout and stderr for the next lines, and fails unless the command does.
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); !errors.As(err, &exit) {
		ts.Fatalf("%v ended with %v, want exit code %d", args[1:], err, want)
	} else if exit.ExitCode() != want {
		ts.Fatalf("%v ended with exit code %d, want %d", args[1:], exit.ExitCode(), want)
	}
}

// count checks how many files lie under a folder: count N dir.
func count(ts *testscript.TestScript, neg bool, args []string) {
	n := 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return err
	}))
	if got := strconv.Itoa(n); (got == args[0]) == neg {
		ts.Fatalf("%s holds %s files", args[1], got)
	}
}

// flip changes one bit of the byte in the middle of a file, or after the first occurrence of a text: flip file [text].
// The file may be a pattern: the first match counts.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("no file %s", args[0])
	}
	data, err := os.ReadFile(found[0])
	ts.Check(err)
	at := len(data) / 2
	if len(args) > 1 {
		i := bytes.Index(data, []byte(args[1]))
		if i < 0 {
			ts.Fatalf("%s does not hold %q", found[0], args[1])
		}
		at = i + len(args[1])
	}
	data[at] ^= 1
	ts.Check(os.Chmod(found[0], 0o600))
	ts.Check(os.WriteFile(found[0], data, 0o600))
}

// tableFile writes the first rows of the health example: table rows file.
func tableFile(ts *testscript.TestScript, neg bool, args []string) {
	rows, err := strconv.Atoi(args[0])
	ts.Check(err)
	data, err := hometest.Table(rows)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o600))
}

// replace rewrites a file with the first occurrence of a text replaced: replace from to old new.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	data := ts.ReadFile(args[0])
	old, fresh := unescape(args[2]), unescape(args[3])
	if !strings.Contains(data, old) {
		ts.Fatalf("%s does not hold %q", args[0], old)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Replace(data, old, fresh, 1)), 0o600))
}

// people writes the tables of the care example with their schemas into the working folder: people N.
func people(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	var tables [3]bytes.Buffer
	ts.Check(generator.Write(&tables[0], &tables[1], &tables[2], n, 1))
	for i, name := range []string{"residents", "health", "welfare"} {
		ts.Check(os.WriteFile(ts.MkAbs(name+".csv"), tables[i].Bytes(), 0o600))
		schema, err := examples.Files.ReadFile("care/" + name + ".schema.json")
		ts.Check(err)
		// The health example's dataset is called health, too.
		schema = bytes.Replace(schema, []byte(`"dataset": "health"`), []byte(`"dataset": "costs"`), 1)
		ts.Check(os.WriteFile(ts.MkAbs(name+".schema.json"), schema, 0o600))
	}
}

func unescape(s string) string { return strings.ReplaceAll(s, `\n`, "\n") }

// capture sets a variable to the first word of the last command's output that begins with a text: capture VAR begin.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	for _, word := range strings.Fields(ts.ReadFile("stdout") + " " + ts.ReadFile("stderr")) {
		word = strings.Trim(word, "\"'`,.;:()")
		if rest, ok := strings.CutPrefix(word, args[1]); ok {
			if len(args) == 2 {
				rest = word
			}
			ts.Setenv(args[0], rest)
			return
		}
	}
	ts.Fatalf("the output has no word that begins with %q", args[1])
}

// gb18030 encodes a file: gb18030 from to.
func gb18030(ts *testscript.TestScript, neg bool, args []string) {
	text, err := simplifiedchinese.GB18030.NewEncoder().String(ts.ReadFile(args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// TestEveryCommandIsDocumented walks the command tree: whatever can be run says what it does and shows how.
func TestEveryCommandIsDocumented(t *testing.T) {
	a := &app{clock: time.Now}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no Short", c.CommandPath())
		}
		if c.Runnable() && !c.HasSubCommands() {
			if c.Example == "" {
				t.Errorf("%s has no Example", c.CommandPath())
			}
			if c.Args == nil {
				t.Errorf("%s takes any arguments", c.CommandPath())
			}
			for line := range strings.Lines(c.Example) {
				if !strings.HasPrefix(line, "  ") {
					t.Errorf("%s: example is not indented: %s", c.CommandPath(), line)
				}
				if words := strings.Fields(line); words[0] == "lab" && !strings.HasPrefix(strings.Join(words, " "), c.CommandPath()) {
					t.Errorf("%s: example is of another command: %s", c.CommandPath(), line)
				}
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
}

// root sets a variable to the lab's root key: root VAR.
func root(ts *testscript.TestScript, neg bool, args []string) {
	h, err := home.Open(context.Background(), ts.Getenv("LAB_DIR"), home.Options{})
	ts.Check(err)
	ts.Check(h.Close(context.Background()))
	ts.Setenv(args[0], hex.EncodeToString(h.Root))
}

// xlsx turns a CSV file into a workbook: xlsx from to [numbers]. With numbers, what looks like a number is one, as
// spreadsheet programs like to have it.
func xlsx(ts *testscript.TestScript, neg bool, args []string) {
	rows, err := csv.NewReader(strings.NewReader(ts.ReadFile(args[0]))).ReadAll()
	ts.Check(err)
	f := excelize.NewFile()
	for y, row := range rows {
		for x, text := range row {
			cell, err := excelize.CoordinatesToCellName(x+1, y+1)
			ts.Check(err)
			var v any = text
			if n, err := strconv.ParseFloat(text, 64); err == nil && len(args) > 2 {
				v = n
			}
			ts.Check(f.SetCellValue("Sheet1", cell, v))
		}
	}
	ts.Check(errors.Join(f.SaveAs(ts.MkAbs(args[1])), f.Close()))
}
