// Command gotest runs go test with its arguments and says at the end what was skipped, and why: a skip among a thousand
// passes is otherwise never read. Of tests that pass it prints nothing but their package's line.
//
//	go run ./internal/gotest [flags of go test] packages
//
// It exits with 1 if a test failed and, where LAB_REQUIRE_ALL=1 promises that everything tests need is there, if one was
// skipped.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv("LAB_REQUIRE_ALL") == "1", os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
}

// run writes what people read to stdout. What go test writes to its standard error, such as downloads, goes to stderr.
func run(ctx context.Context, args []string, requireAll bool, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("running go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running go test: %w", err)
	}
	r := newReport(stdout)
	read := r.read(events)
	if err := errors.Join(read, cmd.Wait()); err != nil {
		r.summary()
		return fmt.Errorf("go test: %w", err)
	}
	r.summary()
	if len(r.failed) > 0 {
		return errors.New("go test ended well but events tell of failures")
	}
	if n := len(r.skipped); requireAll && n > 0 {
		return fmt.Errorf("LAB_REQUIRE_ALL=1 and %d tests were skipped: provide what they need, as listed above", n)
	}
	return nil
}
