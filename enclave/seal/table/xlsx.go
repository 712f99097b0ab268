package table

import (
	"archive/zip"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
)

// excelLimit is where whole numbers begin to lose digits: a spreadsheet keeps 15 significant ones.
const excelLimit = 1e15

// xlsxReader reads one worksheet of an Office Open XML workbook (ECMA-376, part 1, clause 18.3) as a stream of XML
// tokens. The usual library hides whether a cell holds text or a number unless it loads the whole sheet, and unpacks
// large sheets into temporary files; an identifier that became a number must be noticed, and rows must not reach a disk.
//
// Numbers are read as stored, not as formatted for display; a date is therefore a serial number: format date columns as
// text before sealing by them.
type xlsxReader struct {
	closer io.Closer
	sheet  io.ReadCloser
	guard  *tokenGuard
	dec    *xml.Decoder
	shared []string
	max    int

	header []string
	keys   []bool
	fields []string
	row    int64
	line   int64 // sheet row
	gap    bool  // rows before it are left out of the file, being empty
	err    error
}

func newXLSX(r io.ReaderAt, size int64, closer io.Closer, opts Options) (*xlsxReader, error) {
	archive, err := zip.NewReader(r, size)
	if err != nil {
		return nil, &Error{Err: ErrFormat, Problem: "not a readable xlsx file: " + err.Error()}
	}
	book, err := readWorkbook(archive, opts)
	if err != nil {
		return nil, err
	}
	x := &xlsxReader{closer: closer, shared: book.shared, max: opts.maxRow()}
	if x.sheet, err = archive.Open(book.sheet); err != nil {
		return nil, &Error{Err: ErrFormat, Problem: "the worksheet is not in the file"}
	}
	x.dec, x.guard = guarded(x.sheet, x.max)
	err = x.readRow()
	if err == io.EOF {
		err = &Error{Err: ErrEmpty, Problem: "the worksheet has no rows"}
	}
	if err == nil {
		err = checkHeader(x.fields, x.line)
	}
	if err != nil {
		x.sheet.Close()
		return nil, err
	}
	x.header = append([]string(nil), x.fields...)
	x.keys = keyColumns(x.header, opts.Keys)
	return x, nil
}

func (x *xlsxReader) Format() string   { return XLSX }
func (x *xlsxReader) Header() []string { return x.header }

func (x *xlsxReader) Close() error {
	x.sheet.Close()
	return x.closer.Close()
}

// Next skips empty rows at the end of the sheet, which are left over from formatting, and refuses them elsewhere.
func (x *xlsxReader) Next() (Row, error) {
	blank := false
	for x.err == nil {
		if x.err = x.readRow(); x.err != nil {
			break
		}
		if !x.isBlank() {
			if blank || x.gap {
				x.err = x.problem(ErrFields, -1, "rows before it are empty; empty rows may stand only at the end")
				break
			}
			x.row++
			return Row{Number: x.row, Line: x.line, Fields: x.fields}, nil
		}
		blank = true
	}
	return Row{}, x.err
}

func (x *xlsxReader) isBlank() bool {
	for _, f := range x.fields {
		if f != "" {
			return false
		}
	}
	return true
}

// readRow reads the next <row> into fields, padded to the width of the header.
func (x *xlsxReader) readRow() error {
	x.fields = x.fields[:0]
	inside, total := false, 0
	x.gap = false
	for {
		tok, err := x.token()
		if err != nil {
			return err
		}
		switch t := tok.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "row":
				inside = true
				x.line++
				if n, err := strconv.ParseInt(attr(t, "r"), 10, 64); err == nil && n > x.line {
					x.line, x.gap = n, true
				}
			case "c":
				if !inside {
					continue
				}
				text, column, err := x.cell(t)
				if err != nil {
					return err
				}
				if total += len(text); total > x.max {
					return x.problem(ErrTooLong, column, lengthProblem(x.max))
				}
				if err := x.put(column, text); err != nil {
					return err
				}
			}
		case xml.EndElement:
			switch t.Name.Local {
			case "row":
				for len(x.fields) < len(x.header) {
					x.fields = append(x.fields, "")
				}
				return nil
			case "sheetData":
				return io.EOF
			}
		}
	}
}

func (x *xlsxReader) put(column int, text string) error {
	if x.header != nil && column >= len(x.header) {
		if text == "" {
			return nil
		}
		return x.problem(ErrFields, column, "a value stands to the right of the last column of the header")
	}
	if column < len(x.fields) {
		return x.problem(ErrFormat, column, "cells of the row are out of order")
	}
	for len(x.fields) < column {
		x.fields = append(x.fields, "")
	}
	if x.header == nil && text == "" { // formatting to the right of the header; a gap inside it is found by checkHeader
		return nil
	}
	x.fields = append(x.fields, text)
	return nil
}

// cell reads one <c> to its end: the value of <v>, or the text of an inline string.
func (x *xlsxReader) cell(start xml.StartElement) (text string, column int, err error) {
	kind := attr(start, "t")
	column = len(x.fields)
	if ref := attr(start, "r"); ref != "" {
		if column, err = columnOf(ref); err != nil {
			return "", 0, x.problem(ErrFormat, -1, err.Error())
		}
	}
	var b strings.Builder
	want := 0 // inside how many elements whose text counts
	for depth := 1; depth > 0; {
		tok, err := x.token()
		if err != nil {
			return "", column, err
		}
		switch t := tok.(type) {
		case xml.StartElement:
			depth++
			if name := t.Name.Local; name == "v" && kind != "inlineStr" || name == "t" && kind == "inlineStr" {
				want++
			} else if name == "rPh" { // pronunciation, not text
				want -= 1 << 20
			}
		case xml.EndElement:
			depth--
			if name := t.Name.Local; name == "v" && kind != "inlineStr" || name == "t" && kind == "inlineStr" {
				want--
			} else if name == "rPh" {
				want += 1 << 20
			}
		case xml.CharData:
			if want > 0 {
				b.Write(t)
			}
			if b.Len() > x.max {
				return "", column, x.problem(ErrTooLong, column, lengthProblem(x.max))
			}
		}
	}
	text, err = x.value(kind, b.String(), column)
	if err != nil {
		return "", column, err
	}
	if p := textProblem(text); p != "" {
		return "", column, x.problem(ErrEncoding, column, p)
	}
	return text, column, nil
}

// value interprets a cell by its type (clause 18.18.11).
func (x *xlsxReader) value(kind, raw string, column int) (string, error) {
	switch kind {
	case "s":
		i, err := strconv.Atoi(raw)
		if err != nil || i < 0 || i >= len(x.shared) {
			return "", x.problem(ErrFormat, column, "the cell points to a string that the workbook does not have")
		}
		return x.shared[i], nil
	case "str", "inlineStr", "d":
		return raw, nil
	case "b":
		return strconv.FormatBool(raw == "1"), nil
	case "e":
		return "", x.problem(ErrCell, column, "the cell holds an error of the spreadsheet")
	}
	if raw == "" {
		return "", nil
	}
	f, err := strconv.ParseFloat(raw, 64)
	switch {
	case err != nil || math.IsNaN(f) || math.IsInf(f, 0):
		return "", x.problem(ErrFormat, column, "the cell is typed as a number and holds none")
	case math.Abs(f) >= excelLimit:
		return "", x.problem(ErrDigits, column, "a number of more than 15 digits: format the column as text and enter it again from the source")
	case column < len(x.keys) && x.keys[column]:
		return "", x.problem(ErrDigits, column, "an identifier is stored as a number, which drops leading zeros and digits after the 15th: "+
			"format the column as text and enter it again from the source")
	}
	// What the spreadsheet shows: 15 significant digits, without the dust of binary arithmetic behind them.
	f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'g', 15, 64), 64)
	return strconv.FormatFloat(f, 'f', -1, 64), nil
}

func (x *xlsxReader) token() (xml.Token, error) {
	x.guard.spent = 0
	tok, err := x.dec.RawToken()
	switch {
	case err == nil:
		return tok, nil
	case errors.Is(err, errGuard):
		return nil, x.problem(ErrTooLong, -1, lengthProblem(x.max))
	case err == io.EOF:
		return nil, x.problem(ErrFormat, -1, "the worksheet is cut off")
	}
	return nil, x.problem(ErrFormat, -1, "the worksheet is damaged: "+err.Error())
}

func (x *xlsxReader) problem(kind error, column int, text string) error {
	e := &Error{Err: kind, Line: x.line, Problem: text}
	if x.header != nil {
		e.Row = x.row + 1
	}
	if column >= 0 {
		e.Column = columnName(x.header, column)
	}
	return e
}
