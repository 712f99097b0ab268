package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
)

// The tables fit their schemas: every row can be sealed, whatever way its identity number is written.
func TestTablesFitTheirSchemas(t *testing.T) {
	dir := t.TempDir()
	if err := run([]string{"-people", "2000", "-dir", dir}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"residents", "health", "welfare"} {
		data, err := os.ReadFile(name + ".schema.json")
		if err != nil {
			t.Fatal(err)
		}
		s, err := schema.Parse(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		csv, err := os.ReadFile(filepath.Join(dir, name+".csv"))
		if err != nil {
			t.Fatal(err)
		}
		in, err := table.NewCSV(bytes.NewReader(csv), table.Options{})
		if err != nil {
			t.Fatal(err)
		}
		enc, err := schema.NewEncoder(s, in.Header())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for {
			row, err := in.Next()
			if err != nil {
				break
			}
			if _, err := enc.Encode(row); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if err := enc.Quality().Err(); err != nil || enc.Quality().Rows < 500 {
			t.Errorf("%s: %d rows, %v", name, enc.Quality().Rows, err)
		}
	}
	for _, args := range [][]string{{"extra"}, {"-people", "-1", "-dir", dir}, {"-dir", filepath.Join(dir, "none")}} {
		if run(args) == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
