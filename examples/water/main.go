// Command water writes an invented table of household water use, the table that schema.json in this folder describes.
//
//	go run ./examples/water -rows 200000 -seed 1 -o water.csv
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"yingzhou.dev/lab/examples/water/generator"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "water:", err)
		}
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) (err error) {
	flags := flag.NewFlagSet("water", flag.ContinueOnError)
	rows := flags.Int("rows", 200_000, "number of households")
	seed := flags.Uint64("seed", 1, "seed; the same seed gives the same file")
	out := flags.String("o", "", "file to write; empty for standard output")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *out == "" {
		return generator.Write(stdout, *rows, *seed)
	}
	f, err := os.Create(*out)
	if err != nil {
		return fmt.Errorf("creating the table: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("closing the table: %w", cerr)
		}
	}()
	return generator.Write(f, *rows, *seed)
}
