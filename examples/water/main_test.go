package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.csv")
	if err := run([]string{"-rows", "100", "-seed", "3", "-o", path}, io.Discard); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run([]string{"-rows", "100", "-seed", "3"}, &out); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, out.Bytes()) || bytes.Count(file, []byte("\n")) != 101 {
		t.Error("file and standard output differ, or have not 100 rows")
	}
	for _, args := range [][]string{{"extra"}, {"-rows", "-1"}, {"-o", filepath.Join(path, "x")}} {
		if run(args, io.Discard) == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
