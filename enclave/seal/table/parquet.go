package table

import (
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// parquetBatch is how many rows are decoded at a time.
const parquetBatch = 256

// parquetReader reads flat Parquet files: one value or null per row and column. Nested and repeated columns have no
// place in a table schema and are refused.
type parquetReader struct {
	closer io.Closer
	groups []parquet.RowGroup
	rows   parquet.Rows
	batch  []parquet.Row
	at, n  int // rows of batch handed out and decoded

	drained bool // rows has nothing after batch
	header  []string
	texts   []func(parquet.Value) (string, error)
	max     int
	fields  []string
	row     int64
	err     error
}

func newParquet(r io.ReaderAt, size int64, closer io.Closer, opts Options) (_ *parquetReader, err error) {
	defer recovered(&err)
	f, err := parquet.OpenFile(r, size)
	if err != nil {
		return nil, &Error{Err: ErrFormat, Problem: "not a readable Parquet file: " + err.Error()}
	}
	p := &parquetReader{closer: closer, groups: f.RowGroups(), batch: make([]parquet.Row, parquetBatch), max: opts.maxRow()}
	for _, c := range f.Root().Columns() {
		if !c.Leaf() || c.Repeated() {
			return nil, &Error{Err: ErrFormat, Column: c.Name(), Problem: "nested and repeated columns are not read: flatten the table"}
		}
		text, err := textOf(c.Type(), slices.Contains(opts.Keys, c.Name()))
		if err != nil {
			return nil, &Error{Err: ErrFormat, Column: c.Name(), Problem: err.Error()}
		}
		p.header = append(p.header, c.Name())
		p.texts = append(p.texts, text)
	}
	if len(p.header) == 0 {
		return nil, &Error{Err: ErrEmpty, Problem: "the file has no columns"}
	}
	if err := checkHeader(p.header, 0); err != nil {
		return nil, err
	}
	p.fields = make([]string, len(p.header))
	return p, nil
}

// recovered turns a panic of the Parquet library, which trusts offsets found in the file, into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = &Error{Err: ErrFormat, Problem: "the Parquet file is damaged"}
	}
}

func (p *parquetReader) Format() string   { return Parquet }
func (p *parquetReader) Header() []string { return p.header }

func (p *parquetReader) Close() error {
	if p.rows != nil {
		p.rows.Close()
	}
	return p.closer.Close()
}

func (p *parquetReader) Next() (Row, error) {
	if p.err == nil {
		p.err = p.next()
	}
	if p.err != nil {
		return Row{}, p.err
	}
	return Row{Number: p.row, Fields: p.fields}, nil
}

func (p *parquetReader) next() (err error) {
	defer recovered(&err)
	for p.at == p.n {
		if err := p.load(); err != nil {
			return err
		}
	}
	p.row++
	total := 0
	row := p.batch[p.at]
	p.at++
	if len(row) != len(p.fields) {
		return &Error{Err: ErrFields, Row: p.row, Problem: countProblem(len(row), len(p.fields))}
	}
	for _, v := range row {
		i := v.Column()
		if v.IsNull() {
			p.fields[i] = ""
			continue
		}
		text, err := p.texts[i](v)
		if err != nil {
			return &Error{Err: ErrCell, Row: p.row, Column: p.header[i], Problem: err.Error()}
		}
		if total += len(text); total > p.max {
			return &Error{Err: ErrTooLong, Row: p.row, Column: p.header[i], Problem: lengthProblem(p.max)}
		}
		if problem := textProblem(text); problem != "" {
			return &Error{Err: ErrEncoding, Row: p.row, Column: p.header[i], Problem: problem}
		}
		p.fields[i] = text
	}
	return nil
}

// load decodes the next batch of rows, io.EOF after the last row group.
func (p *parquetReader) load() error {
	if p.drained { // only now: the last batch may share memory with the pages
		err := p.rows.Close()
		p.rows, p.drained = nil, false
		if err != nil {
			return &Error{Err: ErrFormat, Row: p.row + 1, Problem: "the Parquet file is damaged: " + err.Error()}
		}
	}
	if p.rows == nil {
		if len(p.groups) == 0 {
			return io.EOF
		}
		p.rows, p.groups = p.groups[0].Rows(), p.groups[1:]
	}
	n, err := p.rows.ReadRows(p.batch)
	p.at, p.n = 0, n
	p.drained = err == io.EOF || err == nil && n == 0
	if err != nil && err != io.EOF {
		return &Error{Err: ErrFormat, Row: p.row + 1, Problem: "the Parquet file is damaged: " + err.Error()}
	}
	return nil
}

// textOf chooses how the values of a column are written as text, by its logical type first.
func textOf(t parquet.Type, key bool) (func(parquet.Value) (string, error), error) {
	if l := t.LogicalType(); l != nil {
		switch l := l.Value.(type) {
		case *format.DecimalType:
			scale := int(l.Scale)
			return func(v parquet.Value) (string, error) { return decimalText(v, scale) }, nil
		case *format.DateType:
			return func(v parquet.Value) (string, error) {
				return time.Unix(int64(v.Int32())*86400, 0).UTC().Format(time.DateOnly), nil
			}, nil
		case *format.TimestampType:
			unit := timeUnit(l.Unit)
			perSecond := int64(time.Second / unit)
			return func(v parquet.Value) (string, error) {
				n := v.Int64()
				return time.Unix(n/perSecond, n%perSecond*int64(unit)).UTC().Format(time.RFC3339Nano), nil
			}, nil
		case *format.IntType:
			if !l.IsSigned {
				return unsignedText, nil
			}
		case *format.UUIDType:
			return func(v parquet.Value) (string, error) { return v.String(), nil }, nil
		case *format.StringType, *format.EnumType:
		default:
			return nil, fmt.Errorf("logical type %s is not read: convert the column to text", t)
		}
	}
	switch t.Kind() {
	case parquet.Boolean:
		return func(v parquet.Value) (string, error) { return strconv.FormatBool(v.Boolean()), nil }, nil
	case parquet.Int32:
		return func(v parquet.Value) (string, error) { return strconv.FormatInt(int64(v.Int32()), 10), nil }, nil
	case parquet.Int64:
		return func(v parquet.Value) (string, error) { return strconv.FormatInt(v.Int64(), 10), nil }, nil
	case parquet.Float, parquet.Double:
		if key {
			return nil, fmt.Errorf("%w: an identifier is stored as a floating-point number: store it as text", ErrDigits)
		}
		return floatText, nil
	case parquet.ByteArray:
		return func(v parquet.Value) (string, error) { return string(v.ByteArray()), nil }, nil
	}
	return nil, fmt.Errorf("physical type %s is not read: convert the column to text, a number or INT64 timestamps", t.Kind())
}

func timeUnit(u format.TimeUnit) time.Duration {
	switch u.Value.(type) {
	case *format.MilliSeconds:
		return time.Millisecond
	case *format.MicroSeconds:
		return time.Microsecond
	}
	return time.Nanosecond
}

func unsignedText(v parquet.Value) (string, error) {
	if v.Kind() == parquet.Int32 {
		return strconv.FormatUint(uint64(v.Uint32()), 10), nil
	}
	return strconv.FormatUint(v.Uint64(), 10), nil
}

// floatText writes the shortest decimal that reads back as the same number.
func floatText(v parquet.Value) (string, error) {
	f, bits := v.Double(), 64
	if v.Kind() == parquet.Float {
		f, bits = float64(v.Float()), 32
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "", fmt.Errorf("not a finite number: write a missing value as null")
	}
	return strconv.FormatFloat(f, 'f', -1, bits), nil
}

// decimalText writes an unscaled integer, big-endian two's complement in the byte array types, with its decimal point.
func decimalText(v parquet.Value, scale int) (string, error) {
	n := new(big.Int)
	switch v.Kind() {
	case parquet.Int32:
		n.SetInt64(int64(v.Int32()))
	case parquet.Int64:
		n.SetInt64(v.Int64())
	default:
		b := v.ByteArray()
		if len(b) > 32 {
			return "", fmt.Errorf("a decimal of more than 256 bits")
		}
		n.SetBytes(b)
		if len(b) > 0 && b[0]&0x80 != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
	}
	if scale <= 0 {
		return n.String(), nil
	}
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
		n.Neg(n)
	}
	digits := n.String()
	if missing := scale + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	return sign + digits[:len(digits)-scale] + "." + digits[len(digits)-scale:], nil
}
