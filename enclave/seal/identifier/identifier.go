// Package identifier brings the identifiers that agencies write in different ways into one form, and turns that form into
// a pseudonym. Rows of two agencies match in a join exactly where their pseudonyms are equal, so both steps are part of the
// format (docs/FORMATS.md, "Identifiers").
//
// Whoever has the project key can compute the pseudonym of every possible identifier, and identity numbers can be
// enumerated. The key therefore stays with the agencies; nodes, custodians and the lab never have it, and it is destroyed
// when the scenario ends.
package identifier

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"
	"time"
	"unicode"
)

// Kinds of identifier.
const (
	// Text is folded and otherwise taken as it is.
	Text = "text"
	// ResidentID is a resident identity number of 18 characters (GB 11643-1999) with its check digit.
	ResidentID = "resident-id"
)

// Errors never hold the identifier.
var (
	errEmpty  = errors.New("is empty")
	errLong   = errors.New("is longer than 64 bytes")
	errForm   = errors.New("is not 17 digits and a digit or X")
	errDate   = errors.New("holds no date of birth")
	errDigit  = errors.New("has a wrong check digit")
	errLetter = errors.New("has a character that is not printable")
)

// maxBytes bounds a normal form.
const maxBytes = 64

// Normalize brings an identifier into its one form: full-width characters (U+FF01 to U+FF5E) become ASCII, white space
// (Unicode White_Space, the ideographic space among it) is taken out, and ASCII letters are made capitals. A resident
// identity number must then be one, check digit included.
func Normalize(kind, s string) (string, error) {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= '！' && r <= '～':
			r -= '！' - '!'
		case unicode.IsSpace(r):
			return -1
		}
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		return r
	}, s)
	switch {
	case s == "":
		return "", errEmpty
	case len(s) > maxBytes:
		return "", errLong
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }):
		return "", errLetter
	}
	switch kind {
	case Text:
		return s, nil
	case ResidentID:
		return s, residentID(s)
	}
	return "", fmt.Errorf("there is no kind of identifier %q", kind)
}

// residentID checks form, date of birth and check digit (ISO 7064, MOD 11-2).
func residentID(s string) error {
	if len(s) != 18 || strings.Trim(s[:17], "0123456789") != "" || strings.Trim(s[17:], "0123456789X") != "" {
		return errForm
	}
	if _, err := time.Parse("20060102", s[6:14]); err != nil {
		return errDate
	}
	sum := 0
	for i := range 17 {
		sum += int(s[i]-'0') * (1 << (17 - i) % 11)
	}
	if s[17] != "10X98765432"[sum%11] {
		return errDigit
	}
	return nil
}

// KeyBytes is the length of a project key.
const KeyBytes = 32

// Pseudonyms makes the pseudonyms of one scenario. It is not safe for concurrent use.
type Pseudonyms struct{ mac hash.Hash }

// NewPseudonyms derives the scenario's key: HKDF-SHA256(project key, no salt, "yingzhou pseudonym v1\0" ‖ scenario).
func NewPseudonyms(projectKey []byte, scenario [32]byte) (*Pseudonyms, error) {
	if len(projectKey) != KeyBytes {
		return nil, fmt.Errorf("a project key has %d bytes, not %d", KeyBytes, len(projectKey))
	}
	key, err := hkdf.Key(sha256.New, projectKey, nil, "yingzhou pseudonym v1\x00"+string(scenario[:]), 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the scenario's key: %w", err)
	}
	return &Pseudonyms{mac: hmac.New(sha256.New, key)}, nil
}

// Of is the pseudonym of a normal form: the first eight bytes of its HMAC, little-endian. Among n people two share one
// with a probability of about n²/2^65.
func (p *Pseudonyms) Of(normal string) uint64 {
	p.mac.Reset()
	p.mac.Write([]byte(normal))
	var sum [32]byte
	return binary.LittleEndian.Uint64(p.mac.Sum(sum[:0]))
}
