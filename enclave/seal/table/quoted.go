package table

import (
	"fmt"
	"strings"
)

// quoted splits a record that holds quotes. It consumes nothing and reports false if the text ends before the record
// does.
func (c *csvReader) quoted(text string, line int64) (done bool, err error) {
	c.fields = c.fields[:0]
	lines, at := int64(0), 0
	for {
		if at < len(text) && text[at] == '"' {
			field, next, breaks, ok := unquote(text, at+1)
			if next > c.max {
				return false, c.tooLong()
			}
			if !ok {
				if c.eof {
					return false, c.problem(ErrQuote, line, len(c.fields), "a quoted field is never closed")
				}
				return false, nil
			}
			lines += breaks
			c.fields = append(c.fields, field)
			at = next
		} else {
			end := at + strings.IndexAny(text[at:], c.stops)
			if end < at {
				end = len(text)
			}
			if end < len(text) && text[end] == '"' {
				return false, c.problem(ErrQuote, line, len(c.fields), "a quote stands inside a field that does not begin with one")
			}
			c.fields = append(c.fields, text[at:end])
			at = end
		}
		switch {
		case at > c.max:
			return false, c.tooLong()
		case at == len(text) || at+1 == len(text) && text[at] == '\r':
			if !c.eof {
				return false, nil
			}
			c.consume(at, lines+1)
			return true, nil
		case text[at] == c.delim:
			at++
		case text[at] == '\n':
			c.consume(at+1, lines+1)
			return true, nil
		case text[at] == '\r' && text[at+1] == '\n':
			c.consume(at+2, lines+1)
			return true, nil
		case text[at] == '\r':
			return false, c.problem(ErrFormat, line, len(c.fields)-1, "has a carriage return outside quotes that does not end the line")
		default:
			return false, c.problem(ErrQuote, line, len(c.fields)-1, "text follows a closing quote")
		}
	}
}

func (c *csvReader) consume(bytes int, lines int64) {
	c.pos += bytes
	c.line += lines
}

// unquote reads a quoted field from behind its opening quote: the text, the position behind the closing quote and the
// line breaks inside. ok is false if the closing quote is not there.
func unquote(text string, from int) (field string, next int, breaks int64, ok bool) {
	start, doubled := from, false
	for {
		i := strings.IndexByte(text[from:], '"')
		if i < 0 {
			return "", len(text), 0, false
		}
		end := from + i
		if end+1 < len(text) && text[end+1] == '"' {
			doubled, from = true, end+2
			continue
		}
		field = text[start:end]
		breaks = int64(strings.Count(field, "\n"))
		if doubled {
			field = strings.ReplaceAll(field, `""`, `"`)
		}
		return field, end + 1, breaks, true
	}
}

func countProblem(got, want int) string {
	return fmt.Sprintf("the row has %d fields and the header has %d", got, want)
}

func lengthProblem(limit int) string {
	return fmt.Sprintf("it has more than %d bytes; is a closing quote or a line end missing?", limit)
}
