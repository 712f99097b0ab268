// Worker computes one plan over sealed inputs and exits. It is the only program in a job's container: it has no keys,
// no network code, and sees ciphertexts only.
//
// It reads /in/task.json (or the folder named by its one argument), maps the inputs beside it, writes a Result as
// canonical JSON to standard output, and progress lines ("progress 0.42") to standard error.
//
// Exit codes: 0 done; 1 the task or an input is bad (a message follows on standard error).
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/internal/canon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir := "/in"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := run(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, enclave.TaskName))
	if err != nil {
		return fmt.Errorf("reading task: %w", err)
	}
	var task enclave.Task
	if err := canon.Unmarshal(data, &task); err != nil {
		return err
	}
	layout, ok := task.Manifest.Layout(task.Plan.Layout)
	if !ok || canon.DigestOf(task.Manifest) != task.Plan.Manifest {
		return fmt.Errorf("task's manifest is not the one that plan %s names", canon.DigestOf(task.Plan).Short())
	}
	if err := checkFiles(dir, task.Files); err != nil {
		return err
	}
	params, err := evaluator.Compile(task.Plan.Params)
	if err != nil {
		return err
	}
	_, terms, err := task.Plan.Expand(&task.Manifest)
	if err != nil {
		return err
	}
	files := evaluator.NewFiles(func(d enclave.Digest, kind string) string {
		name := hex.EncodeToString(d[:]) + "." + kind
		if !slices.ContainsFunc(task.Files, func(f enclave.TaskFile) bool { return f.Name == name }) {
			return "" // not checked, so not read
		}
		return filepath.Join(dir, name)
	})
	defer files.Close()
	last := -1
	cts, err := evaluator.Evaluate(ctx, params, layout, terms, files.With(params), runtime.GOMAXPROCS(0), func(done float64) {
		if p := int(done * 100); p > last { // at most a hundred lines
			last = p
			fmt.Fprintf(os.Stderr, "progress %.2f\n", done)
		}
	})
	if err != nil {
		return err
	}
	result := enclave.TaskResult{Plan: canon.DigestOf(task.Plan), Terms: int64(len(terms)), Output: evaluator.OutputDigest(cts)}
	_, err = os.Stdout.Write(canon.MustMarshal(result))
	return err
}
