// Package table reads an agency's source tables row by row in bounded memory: CSV (RFC 4180, in UTF-8 or GB18030), Parquet
// and xlsx (ECMA-376). It is the only reader of source rows in this repository.
//
// It refuses rather than repairs. A table that was cut off, decoded wrongly, or whose identifiers a spreadsheet has
// already rounded would seal without complaint and answer wrongly for ever after, so broken quoting, a row with the
// wrong number of fields, an undecodable byte, a NUL, a row that is too long and a number with lost digits are all
// errors that name the row and column. No error holds a value of the table.
//
// Nothing is written to disk: a temporary copy of a worksheet would be a clear-text copy of the rows.
package table

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
)

// DefaultMaxRow is the most bytes that one row may have unless Options says otherwise.
const DefaultMaxRow = 1 << 20

// Formats that Open recognises.
const (
	CSV     = "csv"
	Parquet = "parquet"
	XLSX    = "xlsx"
)

// Options adjusts how a table is read. The zero value detects everything that can be detected.
type Options struct {
	// Delimiter separates the fields of a CSV file: ',', ';' or '\t'. 0 chooses the most frequent one of the header line.
	Delimiter byte
	// Encoding of a CSV file: "utf-8", "gb18030" (which includes GBK and GB 2312), or "" to detect it from the first
	// mebibyte.
	Encoding string
	// Sheet names the worksheet of an xlsx file. It may be empty when there is only one.
	Sheet string
	// Keys names columns that hold identifiers. A binary number in one of them is refused, because a spreadsheet keeps
	// only 15 digits and drops leading zeros.
	Keys []string
	// MaxRow is the most bytes that one row, or one field, may have; 0 means DefaultMaxRow.
	MaxRow int
}

func (o Options) maxRow() int {
	if o.MaxRow > 0 {
		return o.MaxRow
	}
	return DefaultMaxRow
}

// Row is one row of data.
type Row struct {
	Number int64 // 1 is the first row after the header
	Line   int64 // where the row begins: line of a CSV file or row of a sheet; 0 for formats without lines
	// Fields has one value per column of the header; a value that the format marks as absent is "". The slice is
	// overwritten by the next call of Next. The strings stay valid but share memory: clone those that are kept.
	Fields []string
}

// Reader reads a table from its first row to its last.
type Reader interface {
	// Format is CSV, Parquet or XLSX.
	Format() string
	// Header lists the column names: not empty, no duplicates. The caller does not change it.
	Header() []string
	// Next returns the next row, io.EOF after the last one, or an *Error, after which the Reader is of no more use.
	Next() (Row, error)
	// Close releases the file.
	Close() error
}

// Open opens a table, telling its format by its first bytes, not by its name.
func Open(path string, opts Options) (Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening table: %w", err)
	}
	r, err := open(f, opts)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening table %q: %w", path, err)
	}
	return r, nil
}

func open(f *os.File, opts Options) (Reader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	magic := make([]byte, 8)
	n := 0
	if info.Mode().IsRegular() {
		if n, err = f.ReadAt(magic, 0); err != nil && err != io.EOF {
			return nil, err
		}
	}
	switch {
	case bytes.HasPrefix(magic[:n], []byte("PAR1")):
		return newParquet(f, info.Size(), f, opts)
	case bytes.HasPrefix(magic[:n], []byte("PK\x03\x04")):
		return newXLSX(f, info.Size(), f, opts)
	case bytes.HasPrefix(magic[:n], []byte("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1")):
		return nil, &Error{Err: ErrFormat, Problem: "an old .xls file or a password-protected workbook: save it as .xlsx without a password, or as CSV UTF-8"}
	}
	return newCSV(f, f, opts)
}

// NewCSV reads CSV from a stream. Close closes nothing but the Reader.
func NewCSV(r io.Reader, opts Options) (Reader, error) { return newCSV(r, nil, opts) }

// checkHeader refuses column names that could not be told apart or that are the first row of a table without header.
func checkHeader(header []string, line int64) error {
	bad := func(i int, problem string) error {
		return &Error{Err: ErrHeader, Line: line, Column: ordinal(i), Problem: problem}
	}
	if len(header) == 0 {
		return &Error{Err: ErrHeader, Line: line, Problem: "the first row is empty; it must name the columns"}
	}
	seen := make(map[string]bool, len(header))
	for i, name := range header {
		switch {
		case name == "":
			return bad(i, "the header has no name for this column")
		case looksNumeric(name):
			return bad(i, "the header has a number instead of a name: is the header line missing?")
		case seen[name]:
			return &Error{Err: ErrHeader, Line: line, Column: name, Problem: "the header has this name twice"}
		}
		seen[name] = true
	}
	return nil
}

func looksNumeric(s string) bool {
	digit := false
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9':
			digit = true
		case c != '.' && c != '-' && c != '+':
			return false
		}
	}
	return digit
}

// keyColumns marks the positions of the key columns.
func keyColumns(header, keys []string) []bool {
	out := make([]bool, len(header))
	for i, name := range header {
		out[i] = slices.Contains(keys, name)
	}
	return out
}
