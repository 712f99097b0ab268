package table

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/encoding/simplifiedchinese"
	"pgregory.net/rapid"
)

// all reads a table to its end, cloning what it keeps.
func all(r Reader) (rows [][]string, err error) {
	for {
		row, err := r.Next()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		rows = append(rows, append([]string(nil), row.Fields...))
	}
}

func parse(t *testing.T, text string, opts Options) (header []string, rows [][]string, err error) {
	t.Helper()
	r, err := NewCSV(strings.NewReader(text), opts)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	rows, err = all(r)
	return r.Header(), rows, err
}

func TestCSVReads(t *testing.T) {
	ab := []string{"a", "b"}
	for name, tc := range map[string]struct {
		text   string
		opts   Options
		header []string
		rows   [][]string
	}{
		"plain":                {text: "a,b\n1,2\n", header: ab, rows: [][]string{{"1", "2"}}},
		"no last newline":      {text: "a,b\n1,2", header: ab, rows: [][]string{{"1", "2"}}},
		"byte order mark":      {text: "\uFEFFa,b\n1,2\n", header: ab, rows: [][]string{{"1", "2"}}},
		"crlf":                 {text: "a,b\r\n1,2\r\n3,4\r\n", header: ab, rows: [][]string{{"1", "2"}, {"3", "4"}}},
		"crlf without last":    {text: "a,b\r\n1,\"2\"\r\n3,\"4\"", header: ab, rows: [][]string{{"1", "2"}, {"3", "4"}}},
		"semicolons":           {text: "a;b\n1,5;2\n", header: ab, rows: [][]string{{"1,5", "2"}}},
		"tabs":                 {text: "a\tb\n1\t2\n", header: ab, rows: [][]string{{"1", "2"}}},
		"delimiter in quotes":  {text: "\"a,x\";b\n1;2\n", header: []string{"a,x", "b"}, rows: [][]string{{"1", "2"}}},
		"quotes":               {text: "a,b\n\"x,\"\"y\"\"\n\",2\n", header: ab, rows: [][]string{{"x,\"y\"\n", "2"}}},
		"quoted at the end":    {text: "a,b\n1,\"\"", header: ab, rows: [][]string{{"1", ""}}},
		"empty last field":     {text: "a,b\n\"1\",\n", header: ab, rows: [][]string{{"1", ""}}},
		"one column and blank": {text: "a\n1\n\n2\n", header: []string{"a"}, rows: [][]string{{"1"}, {""}, {"2"}}},
		"blank lines at end":   {text: "a,b\n1,2\n\n\r\n\n", header: ab, rows: [][]string{{"1", "2"}}},
		"header only":          {text: "a,b\n", header: ab},
		"chinese":              {text: "乡镇,b\n堡镇,2\n", header: []string{"乡镇", "b"}, rows: [][]string{{"堡镇", "2"}}},
		"delimiter given":      {text: "a,b\n1;2\n", opts: Options{Delimiter: ';'}, header: []string{"a,b"}, rows: nil},
	} {
		t.Run(name, func(t *testing.T) {
			header, rows, err := parse(t, tc.text, tc.opts)
			if name == "delimiter given" {
				if !errors.Is(err, ErrFields) {
					t.Fatalf("got %v, want ErrFields", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.header, header); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tc.rows, rows); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCSVRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want Error
	}{
		"no bytes":          {"", Error{Err: ErrEmpty}},
		"only a mark":       {"\uFEFF", Error{Err: ErrEmpty}},
		"only line ends":    {"\n\n", Error{Err: ErrEmpty}},
		"utf-16":            {"\xFF\xFEa\x00", Error{Err: ErrEncoding}},
		"unnamed column":    {"a,,c\n1,2,3\n", Error{Err: ErrHeader, Line: 1, Column: "#2"}},
		"same name twice":   {"a,b,a\n", Error{Err: ErrHeader, Line: 1, Column: "a"}},
		"no header":         {"1.5,x\n2,y\n", Error{Err: ErrHeader, Line: 1, Column: "#1"}},
		"too few fields":    {"a,b\n1,2\n3\n", Error{Err: ErrFields, Row: 2, Line: 3}},
		"too many fields":   {"a,b\n1,2,3\n", Error{Err: ErrFields, Row: 1, Line: 2}},
		"lines counted":     {"a,b\n\"1\n\n\",2\n3\n", Error{Err: ErrFields, Row: 2, Line: 5}},
		"blank line inside": {"a,b\n1,2\n\n3,4\n", Error{Err: ErrFields, Row: 2, Line: 3}},
		"open quote":        {"a,b\n1,\"2\n3,4\n", Error{Err: ErrQuote, Row: 1, Line: 2, Column: "b"}},
		"text after quote":  {"a,b\n\"1\"x,2\n", Error{Err: ErrQuote, Row: 1, Line: 2, Column: "a"}},
		"quote inside":      {"a,b\n1,2\"3\n", Error{Err: ErrQuote, Row: 1, Line: 2, Column: "b"}},
		"bare return":       {"a,b\n1,2\r3\n", Error{Err: ErrFormat, Row: 1, Line: 2, Column: "b"}},
		"bare return late":  {"a,b\n\"1\",2\r3\n", Error{Err: ErrFormat, Row: 1, Line: 2, Column: "b"}},
		"nul":               {"a,b\n1,2\n3,\x004\n", Error{Err: ErrEncoding, Row: 2, Line: 3, Column: "b"}},
		"replacement":       {"a,b\n1,2\uFFFD\n", Error{Err: ErrEncoding, Row: 1, Line: 2, Column: "b"}},
		"header undecoded":  {"a,b\uFFFD\n1,2\n", Error{Err: ErrEncoding, Line: 1, Column: "#2"}},
		"long row":          {"a,b\n1," + strings.Repeat("x", 200) + "\n", Error{Err: ErrTooLong, Row: 1, Line: 2}},
		"long quoted row":   {"a,b\n1,\"" + strings.Repeat("x", 200) + "\"\n", Error{Err: ErrTooLong, Row: 1, Line: 2}},
		"long quoted last":  {"a,b\n\"1\"," + strings.Repeat("x", 200) + "\n", Error{Err: ErrTooLong, Row: 1, Line: 2}},
		"long header":       {strings.Repeat("x", 200) + "\n", Error{Err: ErrTooLong, Line: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(t, tc.text, Options{MaxRow: 100})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want *Error", err)
			}
			got := *e
			if got.Problem == "" {
				t.Error("no problem stated")
			}
			got.Problem = ""
			if d := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b error) bool { return a == b })); d != "" {
				t.Errorf("%v\n%s", err, d)
			}
		})
	}
}

func TestCSVOptionsRefused(t *testing.T) {
	if _, err := NewCSV(strings.NewReader("a|b\n"), Options{Delimiter: '|'}); !errors.Is(err, ErrFormat) {
		t.Errorf("delimiter: got %v", err)
	}
	if _, err := NewCSV(strings.NewReader("a,b\n"), Options{Encoding: "latin1"}); err == nil {
		t.Error("encoding: no error")
	}
}

func gb(t testing.TB, s string) string {
	t.Helper()
	out, err := simplifiedchinese.GB18030.NewEncoder().String(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestGB18030(t *testing.T) {
	text := gb(t, "乡镇,用水量\n城桥镇,12.5\n𠮷镇,3\n") // 𠮷 takes four bytes, beyond GBK
	for _, enc := range []string{"", "gb18030"} {
		header, rows, err := parse(t, text, Options{Encoding: enc})
		if err != nil {
			t.Fatal(err)
		}
		want := [][]string{{"乡镇", "用水量"}, {"城桥镇", "12.5"}, {"𠮷镇", "3"}}
		if d := cmp.Diff(want, append([][]string{header}, rows...)); d != "" {
			t.Error(d)
		}
	}
	for name, bad := range map[string]string{
		"broken pair": gb(t, "乡镇,b\n城桥镇,1\n") + "\x81\x20,2\n",
		"cut off":     gb(t, "乡镇,b\n城桥镇,1\n2,") + "\xb3",
	} {
		_, _, err := parse(t, bad, Options{Encoding: "gb18030"})
		var e *Error
		if !errors.As(err, &e) || e.Err != ErrEncoding || e.Row != 2 {
			t.Errorf("%s: got %v, want ErrEncoding in row 2", name, err)
		}
	}
	// Undeclared GBK after a mebibyte of ASCII is refused with advice, not guessed.
	late := "a,b\n" + strings.Repeat("1,2\n", sniffSize/4) + gb(t, "城桥镇,1\n")
	_, _, err := parse(t, late, Options{})
	if !errors.Is(err, ErrEncoding) || !strings.Contains(err.Error(), "encoding option") {
		t.Errorf("late GBK: got %v", err)
	}
}

// endless never ends: a line of any length without ever a newline.
type endless struct {
	head string
	body byte
	read int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	for i := n; i < len(p); i++ {
		p[i] = e.body
	}
	e.read += int64(len(p))
	if e.read > 64<<20 {
		panic("read on and on")
	}
	return len(p), nil
}

func TestEndlessLine(t *testing.T) {
	for name, head := range map[string]string{
		"line":   "a,b\n1,2\n3,",
		"quoted": "a,b\n1,2\n3,\"",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			src := &endless{head: head, body: 'x'}
			r, err := NewCSV(src, Options{})
			if err != nil {
				t.Fatal(err)
			}
			rows, err := all(r)
			runtime.ReadMemStats(&after)
			var e *Error
			if !errors.As(err, &e) || e.Err != ErrTooLong || e.Row != 2 || len(rows) != 1 {
				t.Fatalf("got %v after %d rows", err, len(rows))
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 24<<20 {
				t.Errorf("allocated %d bytes in all", grown)
			}
		})
	}
	if _, err := NewCSV(&endless{body: 'x'}, Options{}); !errors.Is(err, ErrTooLong) {
		t.Errorf("header: got %v", err)
	}
}

// Records of any content survive encoding/csv's writer, at every position relative to the block border.
func TestCSVRoundTrip(t *testing.T) {
	field := rapid.StringOf(rapid.SampledFrom([]rune("ab,;\t\"\n 镇\u00e9𠮷.0")))
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 5).Draw(t, "columns")
		want := rapid.SliceOfN(rapid.SliceOfN(field, n, n), 0, 20).Draw(t, "rows")
		header := make([]string, n)
		for i := range header {
			header[i] = fmt.Sprint("c", i)
		}
		pad := rapid.IntRange(0, 200).Draw(t, "pad")
		want = append([][]string{append([]string{strings.Repeat("p", blockSize-100-pad)}, make([]string, n-1)...)}, want...)
		var buf bytes.Buffer
		w := csv.NewWriter(&buf)
		w.UseCRLF = rapid.Bool().Draw(t, "crlf")
		w.WriteAll(append([][]string{header}, want...))
		r, err := NewCSV(&buf, Options{Delimiter: ','})
		if err != nil {
			t.Fatal(err)
		}
		got, err := all(r)
		if err != nil {
			t.Fatal(err)
		}
		if w.UseCRLF { // the writer turns line ends inside fields too
			for _, row := range got {
				for i := range row {
					row[i] = strings.ReplaceAll(row[i], "\r\n", "\n")
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzCSV: never panics; what it accepts, encoding/csv reads the same, and writing it out and reading it again changes
// nothing.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"a,b\n1,2\n", "a,b\r\n\"x\"\"\n\",2", "a;b\n1;\"\"\n", "a\n\n1\n", "\uFEFFa\tb\n\t\n", "a,b\n\"", "a,\"b\r\n", "a,b\n1,2\n\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewCSV(bytes.NewReader(data), Options{Encoding: "utf-8", MaxRow: 1000})
		if err != nil {
			return
		}
		rows, err := all(r)
		if err != nil {
			return
		}
		std := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\uFEFF"))))
		std.Comma = rune(r.(*csvReader).delim)
		std.FieldsPerRecord = -1
		want, err := std.ReadAll()
		if err != nil {
			t.Fatalf("accepted what encoding/csv refuses: %v", err)
		}
		if len(r.Header()) > 1 { // encoding/csv skips the blank lines of a one-column table
			got := append([][]string{r.Header()}, rows...)
			for _, row := range got {
				for i := range row {
					row[i] = strings.ReplaceAll(row[i], "\r\n", "\n") // as encoding/csv does inside quotes
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
		}
		for _, row := range rows {
			if len(row) != len(r.Header()) {
				t.Fatal("row of another width")
			}
		}
	})
}

func TestOpenTellsFormats(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		data string
		want error
	}{
		"a.csv":     {"a,b\n1,2\n", nil},
		"old.xls":   {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1....", ErrFormat},
		"fake.xlsx": {"PK\x03\x04 and nothing else", ErrFormat},
		"fake.parq": {"PAR1 and nothing else", ErrFormat},
		"empty.csv": {"", ErrEmpty},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tc.data), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path, Options{})
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
		if err == nil {
			r.Close()
		}
	}
	if _, err := Open(filepath.Join(dir, "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
}

func BenchmarkCSV(b *testing.B) {
	line := "H0001234,城桥镇,公寓,35-49,3,152.4,一阶,489.60\n"
	for name, text := range map[string]string{
		"plain":  line,
		"quoted": strings.ReplaceAll(line, "公寓", "\"公寓\""),
	} {
		b.Run(name, func(b *testing.B) {
			data := "household,town,building,age,people,m3,tier,bill\n" + strings.Repeat(text, 100_000)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := NewCSV(strings.NewReader(data), Options{})
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = r.Next()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*100_000/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
