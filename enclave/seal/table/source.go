package table

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/transform"
)

// sniffSize is how much of a file decides its encoding. A file whose first characters beyond ASCII come later is taken
// for UTF-8; if it is not, reading it fails with advice instead of guessing again.
const sniffSize = 1 << 20

// decode turns a byte stream into UTF-8. Bytes that cannot be decoded come out as invalid UTF-8 or as U+FFFD and are
// refused with their row by the reader: the GB18030 decoder itself never reports an error.
func decode(r io.Reader, encoding string) (io.Reader, error) {
	br := bufio.NewReaderSize(r, sniffSize)
	head, err := br.Peek(sniffSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(head) == 0 {
		return nil, &Error{Err: ErrEmpty, Problem: "the file has no bytes"}
	}
	if bytes.HasPrefix(head, []byte{0xFF, 0xFE}) || bytes.HasPrefix(head, []byte{0xFE, 0xFF}) {
		return nil, &Error{Err: ErrEncoding, Problem: "the file is UTF-16 (\"Unicode text\"): save it as CSV UTF-8"}
	}
	switch encoding {
	case "":
		if validPrefix(head) {
			return br, nil
		}
	case "utf-8":
		return br, nil
	case "gb18030":
	default:
		return nil, fmt.Errorf("encoding %q is not one of utf-8, gb18030", encoding)
	}
	return transform.NewReader(br, simplifiedchinese.GB18030.NewDecoder()), nil
}

// validPrefix reports whether b is UTF-8, save that its last character may be cut off.
func validPrefix(b []byte) bool {
	for i := 1; i <= utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				b = b[:len(b)-i]
			}
			break
		}
	}
	return utf8.Valid(b)
}

// suspect reports whether text holds anything that textProblem would refuse in one of its fields.
func suspect(text []byte) bool {
	return !validPrefix(text) || bytes.IndexByte(text, 0) >= 0 || bytes.Contains(text, []byte("\uFFFD"))
}

// textProblem says what makes a field unfit to be sealed, or "".
func textProblem(s string) string {
	switch {
	case !utf8.ValidString(s):
		return "not UTF-8; if the file is GB18030 or GBK, say so with the encoding option"
	case strings.Contains(s, "\uFFFD"):
		return "has the replacement character U+FFFD: a character was not decodable here or in an earlier conversion"
	case strings.IndexByte(s, 0) >= 0:
		return "has a NUL byte"
	}
	return ""
}
