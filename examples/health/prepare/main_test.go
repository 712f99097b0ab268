package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
)

// The committed table is what this program makes of the published file.
func TestPreparedTable(t *testing.T) {
	in, err := os.ReadFile("../randhie.csv")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../health.csv")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := prepare(bytes.NewReader(in), &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("health.csv is out of date: run the command of the package comment")
	}
}

func TestPrepareRefuses(t *testing.T) {
	head := strings.Join(columns, ",") + "\n"
	for name, text := range map[string]string{
		"other columns":  "a,b,c,d,e,f,g,h,i,j\n",
		"other rate":     head + "0,1.5,1,6.9,0,0,13,1,0,0\n",
		"good and poor":  head + "0,0,1,6.9,0,0,13,1,0,1\n",
		"missing fields": head + "0,0\n",
		"empty":          "",
	} {
		if err := prepare(strings.NewReader(text), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The schema fits the table: every row encodes, nothing is clamped, and the moments come out right.
func TestSchemaFits(t *testing.T) {
	data, err := os.ReadFile("../schema.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := schema.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := table.Open("../health.csv", table.Options{Keys: s.Keys()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	e, err := schema.NewEncoder(s, r.Header())
	if err != nil {
		t.Fatal(err)
	}
	visits, poor := int64(0), 0
	for {
		row, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rec, err := e.Encode(row)
		if err != nil {
			t.Fatal(err)
		}
		visits += rec.Value[4] + 40 // centre of 0..80
		if rec.Index[1] == 3 {
			poor++
		}
	}
	// Counted with awk in the published file: sum of mdvis, rows with hlthp = 1.
	if q := e.Quality(); q.Rows != 20190 || visits != 57752 || poor != 302 || q.Err() != nil {
		t.Errorf("rows %d, visits %d, poor %d: %v", q.Rows, visits, poor, q.Err())
	}
}
