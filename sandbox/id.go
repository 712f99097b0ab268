package sandbox

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"
)

// JobID names a job: "job-" and 16 characters of Crockford's base 32 in lower case, seven for the second of creation and
// nine at random (45 bits). IDs sort by age. Knowing one gives no right to the job.
type JobID string

const (
	idPrefix = "job-"
	idTime   = 7 // 35 bits of Unix time: until the year 3058
	idRandom = 9
	// idAlphabet is in byte order, so that IDs sort as numbers do, and lacks i, l, o and u.
	idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"
)

// NewJobID draws an ID. Two of the same second are equal with probability 2^-45; Records.CreateJob would notice.
func NewJobID(now time.Time) JobID {
	var random [idRandom]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	id := make([]byte, 0, len(idPrefix)+idTime+idRandom)
	id = append(id, idPrefix...)
	for shift := 5 * (idTime - 1); shift >= 0; shift -= 5 {
		id = append(id, idAlphabet[now.Unix()>>shift&31])
	}
	for _, b := range random {
		id = append(id, idAlphabet[b&31])
	}
	return JobID(id)
}

// ParseJobID accepts exactly what NewJobID makes.
func ParseJobID(s string) (JobID, error) {
	rest, ok := strings.CutPrefix(s, idPrefix)
	if !ok || len(rest) != idTime+idRandom || strings.Trim(rest, idAlphabet) != "" {
		return "", fmt.Errorf("%q is not a job: want %s and %d letters or digits, without i, l, o and u", s, idPrefix, idTime+idRandom)
	}
	return JobID(s), nil
}

// Made is the second in which the ID was drawn.
func (id JobID) Made() time.Time {
	var sec int64
	for _, c := range strings.TrimPrefix(string(id), idPrefix)[:idTime] {
		sec = sec<<5 | int64(strings.IndexRune(idAlphabet, c))
	}
	return time.Unix(sec, 0).UTC()
}
