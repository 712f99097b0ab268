// Command care writes the invented tables of three agencies, residents.csv, health.csv and welfare.csv, that the schemas
// in this folder describe.
//
//	go run ./examples/care -people 600000 -seed 1 -dir .
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/examples/care/generator"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "care:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	flags := flag.NewFlagSet("care", flag.ContinueOnError)
	people := flags.Int("people", 600_000, "number of residents")
	seed := flags.Uint64("seed", 1, "seed; the same seed gives the same files")
	dir := flags.String("dir", ".", "folder to write to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var files [3]*os.File
	var writers [3]*bufio.Writer
	for i, name := range []string{"residents", "health", "welfare"} {
		f, err := os.Create(filepath.Join(*dir, name+".csv"))
		if err != nil {
			return fmt.Errorf("creating the tables: %w", err)
		}
		defer f.Close()
		files[i], writers[i] = f, bufio.NewWriter(f)
	}
	if err := generator.Write(writers[0], writers[1], writers[2], *people, *seed); err != nil {
		return err
	}
	for i := range files {
		if err := errors.Join(writers[i].Flush(), files[i].Close()); err != nil {
			return fmt.Errorf("writing the tables: %w", err)
		}
	}
	return nil
}
