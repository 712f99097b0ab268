package table

import (
	"io"
	"strings"
	"unicode/utf8"
)

// blockSize is how much text is taken in at a time. Fields are substrings of a block, so that reading costs one
// allocation per block and not one per row.
const blockSize = 256 << 10

// csvReader splits records itself, because encoding/csv reads a whole record into memory before anyone can object to
// its length. The grammar is RFC 4180, section 2, with LF accepted for CRLF, and nothing looser: a quote may stand only
// around a whole field or doubled inside one.
type csvReader struct {
	src    io.Reader // decoded text
	closer io.Closer
	delim  byte
	stops  string // bytes that end a field without quotes
	max    int

	text string // taken in but not yet split, from pos on
	pos  int
	buf  []byte // scratch for fill
	eof  bool
	// What text holds. Most blocks hold none of it, and their rows take the fast path.
	quotes, returns, suspect bool

	header []string
	fields []string
	row    int64 // rows returned
	line   int64 // lines consumed
	err    error // what ended reading
}

func newCSV(r io.Reader, closer io.Closer, opts Options) (Reader, error) {
	switch opts.Delimiter {
	case 0, ',', ';', '\t':
	default:
		return nil, &Error{Err: ErrFormat, Problem: "the delimiter must be a comma, a semicolon or a tab"}
	}
	src, err := decode(r, opts.Encoding)
	if err != nil {
		return nil, err
	}
	c := &csvReader{src: src, closer: closer, delim: opts.Delimiter, max: opts.maxRow()}
	if err := c.fill(); err != nil {
		return nil, err
	}
	c.text = strings.TrimPrefix(c.text, "\uFEFF")
	if c.delim == 0 {
		c.delim = sniffDelimiter(c.text)
	}
	c.stops = string([]byte{c.delim, '\n', '\r', '"'})
	fields, line, err := c.record()
	if err == io.EOF {
		return nil, &Error{Err: ErrEmpty, Problem: "there is no header line"}
	}
	if err != nil {
		return nil, err
	}
	if err := checkHeader(fields, line); err != nil {
		return nil, err
	}
	c.header = append([]string(nil), fields...)
	for i := range c.header {
		c.header[i] = strings.Clone(c.header[i])
	}
	return c, nil
}

// sniffDelimiter counts the candidates of the header line outside quotes.
func sniffDelimiter(text string) byte {
	var counts [256]int
	quoted := false
	for i := 0; i < len(text) && (quoted || text[i] != '\n'); i++ {
		if text[i] == '"' {
			quoted = !quoted
		} else if !quoted {
			counts[text[i]]++
		}
	}
	best := byte(',')
	for _, c := range []byte{';', '\t'} {
		if counts[c] > counts[best] {
			best = c
		}
	}
	return best
}

func (c *csvReader) Format() string   { return CSV }
func (c *csvReader) Header() []string { return c.header }

func (c *csvReader) Close() error {
	if c.closer == nil {
		return nil
	}
	return c.closer.Close()
}

func (c *csvReader) Next() (Row, error) {
	if c.err != nil {
		return Row{}, c.err
	}
	fields, line, err := c.record()
	if err == nil && len(fields) != len(c.header) {
		err = &Error{Err: ErrFields, Row: c.row + 1, Line: line, Problem: countProblem(len(fields), len(c.header))}
	}
	if err != nil {
		c.err = err
		return Row{}, err
	}
	c.row++
	return Row{Number: c.row, Line: line, Fields: fields}, nil
}

// record splits off the next record and says on which line it began.
func (c *csvReader) record() (fields []string, line int64, err error) {
	for {
		line = c.line + 1
		rest := c.text[c.pos:]
		end := strings.IndexByte(rest, '\n')
		used := end + 1
		if end < 0 {
			if !c.eof {
				if err := c.fill(); err != nil {
					return nil, line, err
				}
				continue
			}
			if rest == "" {
				return nil, line, io.EOF
			}
			end, used = len(rest), len(rest)
		}
		if c.quotes && strings.IndexByte(rest[:end], '"') >= 0 {
			done, err := c.quoted(rest, line)
			if err != nil {
				return nil, line, err
			}
			if !done {
				if err := c.fill(); err != nil {
					return nil, line, err
				}
				continue
			}
		} else {
			text := rest[:end]
			if end > c.max {
				return nil, line, c.tooLong()
			}
			if c.returns {
				text = strings.TrimSuffix(text, "\r")
				if i := strings.IndexByte(text, '\r'); i >= 0 {
					column := strings.Count(text[:i], string(rune(c.delim)))
					return nil, line, c.problem(ErrFormat, line, column, "has a carriage return outside quotes that does not end the line")
				}
			}
			c.line++
			c.pos += used
			if text == "" && len(c.header) != 1 {
				if err := c.blank(line); err != nil {
					return nil, line, err
				}
				return nil, line, io.EOF
			}
			c.split(text)
		}
		if c.suspect {
			for i, f := range c.fields {
				if p := textProblem(f); p != "" {
					return nil, line, c.problem(ErrEncoding, line, i, p)
				}
			}
		}
		return c.fields, line, nil
	}
}

// split is the fast path: a record without quotes.
func (c *csvReader) split(text string) {
	c.fields = c.fields[:0]
	for {
		i := strings.IndexByte(text, c.delim)
		if i < 0 {
			c.fields = append(c.fields, text)
			return
		}
		c.fields = append(c.fields, text[:i])
		text = text[i+1:]
	}
}

// blank accepts empty lines at the end of the file only: elsewhere they may be a record that was lost.
func (c *csvReader) blank(line int64) error {
	for {
		rest := strings.TrimLeft(c.text[c.pos:], "\r\n")
		if rest != "" {
			return c.problem(ErrFields, line, -1, "the line is empty and more rows follow")
		}
		c.pos = len(c.text)
		if c.eof {
			return nil
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// fill takes in another block behind what is left of the text. What is left is at most one unfinished record, so memory
// is bounded by the longest row allowed, however long the line in the file is.
func (c *csvReader) fill() error {
	rest := c.text[c.pos:]
	if len(rest) > c.max {
		return c.tooLong()
	}
	size := len(rest) + max(blockSize, len(rest)) // doubling keeps a long record linear
	if cap(c.buf) < size {
		c.buf = make([]byte, size)
	}
	buf := c.buf[:size]
	kept := copy(buf, rest)
	n, err := io.ReadFull(c.src, buf[kept:])
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		c.eof = true
	} else if err != nil {
		return err
	}
	buf = buf[:kept+n]
	c.text, c.pos = string(buf), 0
	c.quotes = strings.IndexByte(c.text, '"') >= 0
	c.returns = strings.IndexByte(c.text, '\r') >= 0
	c.suspect = suspect(buf) || c.eof && !utf8.Valid(buf)
	return nil
}

func (c *csvReader) tooLong() error {
	return c.problem(ErrTooLong, c.line+1, -1, lengthProblem(c.max))
}

// problem builds an error about the record being read; column -1 means the whole record.
func (c *csvReader) problem(kind error, line int64, column int, text string) error {
	e := &Error{Err: kind, Line: line, Problem: text}
	if c.header != nil {
		e.Row = c.row + 1
	}
	if column >= 0 {
		e.Column = columnName(c.header, column)
	}
	return e
}
