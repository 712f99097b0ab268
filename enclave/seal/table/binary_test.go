package table

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
	"github.com/xuri/excelize/v2"
)

func sheet(t *testing.T, rows [][]any, more ...func(*excelize.File)) string {
	t.Helper()
	f := excelize.NewFile()
	defer f.Close()
	for i, row := range rows {
		cell, _ := excelize.CoordinatesToCellName(1, i+1)
		if err := f.SetSheetRow("Sheet1", cell, &row); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range more {
		m(f)
	}
	path := filepath.Join(t.TempDir(), "t.xlsx")
	if err := f.SaveAs(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(path string, opts Options) ([][]string, error) {
	r, err := Open(path, opts)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	rows, err := all(r)
	return append([][]string{r.Header()}, rows...), err
}

func TestXLSX(t *testing.T) {
	path := sheet(t, [][]any{
		{"id", "town", "m3", "ok"},
		{"007", "城桥镇 & <堡镇>", 12.3, true},
		{"008", nil, 0.1 + 0.2, false},
		{"009", "x", 100000000, nil},
		{nil, nil, nil, nil},
	})
	got, err := read(path, Options{Keys: []string{"id"}})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"id", "town", "m3", "ok"},
		{"007", "城桥镇 & <堡镇>", "12.3", "true"},
		{"008", "", "0.3", "false"},
		{"009", "x", "100000000", ""},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestXLSXRichText(t *testing.T) {
	path := sheet(t, [][]any{{"a"}, {""}}, func(f *excelize.File) {
		if err := f.SetCellRichText("Sheet1", "A2", []excelize.RichTextRun{{Text: "城桥"}, {Text: "镇", Font: &excelize.Font{Bold: true}}}); err != nil {
			t.Fatal(err)
		}
	})
	got, err := read(path, Options{})
	if err != nil || got[1][0] != "城桥镇" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestXLSXRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		rows [][]any
		more func(*excelize.File)
		opts Options
		want error
		row  int64
		col  string
	}{
		"numeric key":      {rows: [][]any{{"id"}, {"1"}, {12345}}, opts: Options{Keys: []string{"id"}}, want: ErrDigits, row: 2, col: "id"},
		"long number":      {rows: [][]any{{"card"}, {310230199001011234}}, want: ErrDigits, row: 1, col: "card"},
		"empty rows":       {rows: [][]any{{"a"}, {"x"}, {nil}, {"y"}}, want: ErrFields, row: 2},
		"beyond header":    {rows: [][]any{{"a"}, {"x", "y"}}, want: ErrFields, row: 1, col: "#2"},
		"gap in header":    {rows: [][]any{{"a", nil, "c"}}, want: ErrHeader, col: "#2"},
		"two sheets":       {rows: [][]any{{"a"}}, more: func(f *excelize.File) { f.NewSheet("Other") }, want: ErrFormat},
		"unknown sheet":    {rows: [][]any{{"a"}}, opts: Options{Sheet: "None"}, want: ErrFormat},
		"no rows":          {want: ErrEmpty},
		"long cell":        {rows: [][]any{{"a"}, {strings.Repeat("x", 5000)}}, opts: Options{MaxRow: 4500}, want: ErrTooLong},
		"replacement char": {rows: [][]any{{"a"}, {"x\uFFFD"}}, want: ErrEncoding, row: 1, col: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			var more []func(*excelize.File)
			if tc.more != nil {
				more = append(more, tc.more)
			}
			_, err := read(sheet(t, tc.rows, more...), tc.opts)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			var e *Error
			if errors.As(err, &e) && (e.Row != tc.row || e.Column != tc.col) {
				t.Errorf("at row %d column %q, want %d %q: %v", e.Row, e.Column, tc.row, tc.col, err)
			}
		})
	}
	path := sheet(t, [][]any{{"a"}}, func(f *excelize.File) {
		f.NewSheet("Other")
		f.SetCellValue("Other", "A1", "b")
	})
	if got, err := read(path, Options{Sheet: "Other"}); err != nil || got[0][0] != "b" {
		t.Errorf("named sheet: %v, %v", got, err)
	}
}

func TestParquet(t *testing.T) {
	type record struct {
		ID    string    `parquet:"id"`
		Town  *string   `parquet:"town,optional"`
		M3    float64   `parquet:"m3"`
		F32   float32   `parquet:"f32"`
		N     int32     `parquet:"n"`
		U     uint64    `parquet:"u"`
		OK    bool      `parquet:"ok"`
		Price int64     `parquet:"price,decimal(2:12)"`
		At    time.Time `parquet:"at,timestamp(microsecond)"`
		Day   int32     `parquet:"day,date"`
	}
	town := "堡镇"
	at := time.Date(2024, 2, 29, 1, 2, 3, 400_000_000, time.UTC)
	var rows []record
	for range 2*parquetBatch + 1 {
		rows = append(rows, record{ID: "007", M3: 1e21, F32: 0.1, N: -5, U: 1<<64 - 1, OK: true, Price: -5, At: at, Day: 19782})
	}
	rows[parquetBatch].Town = &town
	path := filepath.Join(t.TempDir(), "t.parquet")
	if err := parquet.WriteFile(path, rows, parquet.MaxRowsPerRowGroup(300)); err != nil {
		t.Fatal(err)
	}
	got, err := read(path, Options{Keys: []string{"id"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(rows)+1 {
		t.Fatalf("got %d rows, want %d", len(got)-1, len(rows))
	}
	want := map[string]string{"id": "007", "town": "", "m3": "1000000000000000000000", "f32": "0.1", "n": "-5",
		"u": "18446744073709551615", "ok": "true", "price": "-0.05", "at": "2024-02-29T01:02:03.4Z", "day": "2024-02-29"}
	for r, row := range got[1:] {
		if r == parquetBatch {
			want["town"] = town
		} else {
			want["town"] = ""
		}
		for i, name := range got[0] {
			if row[i] != want[name] {
				t.Fatalf("row %d, %s: got %q, want %q", r+1, name, row[i], want[name])
			}
		}
	}
	if _, err := read(path, Options{Keys: []string{"m3"}}); err == nil || !strings.Contains(err.Error(), "lost digits") {
		t.Errorf("floating-point key: got %v", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range 40 { // damage must come out as an error or as rows, never as a panic
		bad := bytes.Clone(data)
		bad[len(bad)*cut/40] ^= 0x5A
		p := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(p, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		read(p, Options{})
	}
}

func TestParquetRefusesNested(t *testing.T) {
	type record struct {
		Tags []string `parquet:"tags"`
	}
	path := filepath.Join(t.TempDir(), "t.parquet")
	if err := parquet.WriteFile(path, []record{{Tags: []string{"a"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := read(path, Options{}); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}

func TestXLSXErrorCell(t *testing.T) {
	x := &xlsxReader{header: []string{"a"}}
	if _, err := x.value("e", "#N/A", 0); !errors.Is(err, ErrCell) || strings.Contains(err.Error(), "N/A") {
		t.Errorf("got %v", err)
	}
}

// FuzzXLSX: a damaged workbook is an error, never a panic.
func FuzzXLSX(f *testing.F) {
	x := excelize.NewFile()
	x.SetSheetRow("Sheet1", "A1", &[]any{"a", "b"})
	x.SetSheetRow("Sheet1", "A2", &[]any{"x", 2})
	buf, err := x.WriteToBuffer()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := newXLSX(bytes.NewReader(data), int64(len(data)), nopCloser{}, Options{MaxRow: 1000})
		if err != nil {
			return
		}
		all(r)
		r.Close()
	})
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }
