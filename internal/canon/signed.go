package canon

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Digest is the SHA-256 of an artefact's canonical bytes and the artefact's only name. The zero Digest means "none".
type Digest [32]byte

// Sum hashes canonical bytes.
func Sum(data []byte) Digest { return sha256.Sum256(data) }

// DigestOf is the name of a value built by this program.
func DigestOf(v any) Digest { return Sum(MustMarshal(v)) }

// ParseDigest reads "sha256:" and 64 lower-case hexadecimal digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 64 || strings.ToLower(h) != h {
		return d, fmt.Errorf("%q is not a digest: want sha256: and 64 lower-case hexadecimal digits", s)
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return d, fmt.Errorf("%q is not a digest: %w", s, err)
	}
	return d, nil
}

// String is the form that ParseDigest reads.
func (d Digest) String() string { return "sha256:" + hex.EncodeToString(d[:]) }

// Short is enough of a digest to recognise it in a table; never used to look anything up.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// IsZero reports whether d names nothing; `json:",omitzero"` leaves it out.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes String's form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}

// Time is an instant in whole seconds of the years 0 to 9999, written as RFC 3339 in UTC.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05Z"

// At truncates t to what an artefact can carry.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Second)} }

// MarshalText refuses fractions of a second, which the text would lose, and years that RFC 3339 cannot write.
func (t Time) MarshalText() ([]byte, error) {
	if y := t.UTC().Year(); t.Nanosecond() != 0 || y < 0 || y > 9999 {
		return nil, errors.New("time is not in whole seconds of the years 0 to 9999: make it with canon.At")
	}
	return []byte(t.UTC().Format(timeLayout)), nil
}

// MarshalJSON hides the embedded time.Time's own, which keeps fractions and zones.
func (t Time) MarshalJSON() ([]byte, error) {
	b, err := t.MarshalText()
	if err != nil {
		return nil, err
	}
	return []byte(`"` + string(b) + `"`), nil
}

// UnmarshalText reads what MarshalText writes and nothing else; time.Parse alone would let fractions through.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(timeLayout, string(b))
	if err != nil || v.Format(timeLayout) != string(b) {
		return fmt.Errorf("%q is not a time like 2026-01-31T08:00:00Z", b)
	}
	t.Time = v
	return nil
}

// UnmarshalJSON mirrors MarshalJSON.
func (t *Time) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return fmt.Errorf("%s is not a time like \"2026-01-31T08:00:00Z\"", b)
	}
	return t.UnmarshalText(b[1 : len(b)-1])
}

// ErrSignature is wrapped by every signature check that fails.
var ErrSignature = errors.New("signature does not verify")

// Signature is one party's Ed25519 signature (RFC 8032) over Message(kind, body).
type Signature struct {
	By  string `json:"by"`  // party's name; its key comes from the roster, never from the artefact
	Sig []byte `json:"sig"` // 64 bytes
}

// Signed carries an artefact's exact bytes with the signatures over them. The artefact's digest covers Body only, so
// adding a signature does not rename it.
type Signed struct {
	Kind string      `json:"kind"` // e.g. "yingzhou.plan.v1"
	Body []byte      `json:"body"` // canonical bytes
	Sigs []Signature `json:"sigs"`
}

// Message is what a signature covers: the kind separates the domains, so no signature serves two purposes. Kinds are
// one line (Seal and Verify refuse others), else the end of a kind could pass for the beginning of a body.
func Message(kind string, body []byte) []byte {
	return append([]byte(messagePrefix(kind)), body...)
}

func messagePrefix(kind string) string { return "yingzhou signature\n" + kind + "\n" }

// Seal encodes v and signs it as the party named by.
func Seal(kind string, v any, by string, key ed25519.PrivateKey) (Signed, error) {
	if !oneLine(kind) {
		return Signed{}, fmt.Errorf("sealing %T: kind %q is not one line", v, kind)
	}
	body, err := Marshal(v)
	if err != nil {
		return Signed{}, err
	}
	return Signed{Kind: kind, Body: body, Sigs: []Signature{Sign(kind, body, by, key)}}, nil
}

// Sign makes one more signature over the same bytes.
func Sign(kind string, body []byte, by string, key ed25519.PrivateKey) Signature {
	return Signature{By: by, Sig: ed25519.Sign(key, Message(kind, body))}
}

// Digest is the artefact's name.
func (s Signed) Digest() Digest { return Sum(s.Body) }

// Verify checks that the party named by, whose key is pub, signed these bytes as this kind.
func (s Signed) Verify(by string, pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("%s %s: %w: %q has no usable key", s.Kind, s.Digest().Short(), ErrSignature, by)
	}
	if !oneLine(s.Kind) {
		return fmt.Errorf("%q %s: %w: kind is not one line", s.Kind, s.Digest().Short(), ErrSignature)
	}
	for _, sig := range s.Sigs {
		if sig.By == by && verified.verify(pub, s.Kind, s.Body, sig.Sig) {
			return nil
		}
	}
	return fmt.Errorf("%s %s: %w: none by %q", s.Kind, s.Digest().Short(), ErrSignature, by)
}

func oneLine(kind string) bool { return kind != "" && !strings.Contains(kind, "\n") }

// Open parses the body as kind into v. It checks no signature: who must have signed depends on the kind.
func (s Signed) Open(kind string, v any) error {
	if s.Kind != kind {
		return fmt.Errorf("artefact is a %q, want a %q", s.Kind, kind)
	}
	return Unmarshal(s.Body, v)
}
