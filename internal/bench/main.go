// Bench runs the benchmarks of the whole project and prints one table: what was measured, what was aimed at, and beside it
// the program that one would first write with Lattigo and the same question asked of DuckDB in the clear.
//
//	go run ./internal/bench          everything: ten minutes, 9 GB of disk
//	go run ./internal/bench -short   the parts only
//
// The figures are of this machine and this moment: nothing here fails because it is slow. DuckDB needs a C compiler and
// its own library, so without them its column says why it is empty.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
)

// suite is one call of go test.
type suite struct {
	dir, pkg, pattern, time string
	long                    bool // left out by -short
}

var suites = []suite{
	{".", "./enclave/he", "SealRows|GroupedSum|Cube8192|Open216", "1s", false},
	{".", "./enclave/seal", "SealCSV", "3x", false},
	{".", "./enclave/mpc/engine", "Million", "3x", true},
	{".", "./internal/e2e", "Worker1Mx18", "3x", true},
	{".", "./cmd/internal/home", "Job1M", "3x", true},
}

var duckDB = suite{"examples/bench", ".", "DuckDB", "1s", false}

func main() {
	short := flag.Bool("short", false, "leave out what takes minutes and gigabytes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, os.Stderr, *short); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, progress io.Writer, short bool) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	r := results{}
	var missing []string
	for _, s := range suites {
		if short && s.long {
			missing = append(missing, s.pkg+" is left out by -short")
			continue
		}
		if err := s.measure(ctx, root, progress, r); err != nil {
			return err
		}
	}
	if err := duckDB.measure(ctx, root, progress, r); err != nil {
		if ctx.Err() != nil {
			return err
		}
		missing = append(missing, fmt.Sprintf("DuckDB, which needs cgo and a C compiler, is left out: %v", err))
	}
	printTable(out, r, missing)
	return nil
}

func moduleRoot(ctx context.Context) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(mod))), nil
}

// measure runs the suite and adds what it prints.
func (s suite) measure(ctx context.Context, root string, progress io.Writer, r results) error {
	dir := filepath.Join(root, s.dir)
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return fmt.Errorf("%s: %w", s.dir, err)
	}
	fmt.Fprintf(progress, "measuring %s %s\n", filepath.Join(s.dir, s.pkg), s.pattern)
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", s.pattern, "-benchtime", s.time, "-benchmem", "-timeout", "30m", s.pkg)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("benchmarks of %s: %w: %s", s.pkg, err, lastLine(stderr.String()+stdout.String()))
	}
	n, err := r.parse(&stdout)
	if err == nil && n == 0 {
		err = errors.New("no benchmark ran")
	}
	if err != nil {
		return fmt.Errorf("benchmarks of %s: %w", s.pkg, err)
	}
	return nil
}

// lastLine is what a failed go test has to say, without its own verdicts.
func lastLine(text string) string {
	last := ""
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line != "FAIL" && !strings.HasPrefix(line, "FAIL\t") && !strings.HasPrefix(line, "exit status") {
			last = line
		}
	}
	return last
}

func printTable(out io.Writer, r results, missing []string) {
	fmt.Fprintln(out, machine())
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\taim\tmeasured\tstraightforward Lattigo\tDuckDB in the clear")
	for _, l := range table {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.what, or(l.aim), r.cell(l.measured), r.cell(l.lattigo), r.cell(l.duckDB))
	}
	w.Flush()
	for _, m := range missing {
		fmt.Fprintln(out, m)
	}
}

func or(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// machine describes where the figures were taken.
func machine() string {
	cpu := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	memory := ""
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb int64
		if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kb); err == nil {
			memory = fmt.Sprintf(", %.0f GB of memory", float64(kb)/1e6)
		}
	}
	return fmt.Sprintf("%s, %d cores%s, %s/%s, %s", cpu, runtime.NumCPU(), memory, runtime.GOOS, runtime.GOARCH, runtime.Version())
}
