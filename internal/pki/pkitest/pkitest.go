// Package pkitest issues certificates for tests: good ones, and each kind of bad one.
package pkitest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"yingzhou.dev/lab/internal/pki"
)

// CA is a lab's authority in a test.
type CA struct {
	Lab string
	*pki.Authority
	clock func() time.Time
}

// New makes an authority. clock nil is time.Now; Sources check certificates by it.
func New(t testing.TB, lab string, clock func() time.Time) *CA {
	t.Helper()
	if clock == nil {
		clock = time.Now
	}
	a, err := pki.NewAuthority(lab, clock().Add(-30*24*time.Hour)) // old enough for certificates that are over
	if err != nil {
		t.Fatal(err)
	}
	return &CA{Lab: lab, Authority: a, clock: clock}
}

// Dir issues a certificate to a new folder.
func (c *CA) Dir(t testing.TB, role, party string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), party)
	if err := c.IssueTo(dir, pki.Name{Lab: c.Lab, Role: role, Party: party}, pki.IssueOptions{Now: c.clock(), Hosts: []string{"localhost", "127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Source issues a certificate and opens it.
func (c *CA) Source(t testing.TB, role, party string) *pki.Source {
	t.Helper()
	s, err := pki.Open(c.Lab, pki.FilesIn(c.Dir(t, role, party)), c.clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Expired is a source whose certificate was good when it was opened and is over by everyone else's clock.
func (c *CA) Expired(t testing.TB, role, party string) *pki.Source {
	t.Helper()
	old := *c
	old.clock = func() time.Time { return c.clock().Add(-10 * 24 * time.Hour) }
	dir := old.Dir(t, role, party)
	now := old.clock
	s, err := pki.Open(c.Lab, pki.FilesIn(dir), func() time.Time { return now() })
	if err != nil {
		t.Fatal(err)
	}
	now = c.clock // its own clock is right again, so that it finds no fault with the peer
	return s
}

// Foreign is a source of an authority of the same name that nobody believes; it believes this one too.
func (c *CA) Foreign(t testing.TB, role, party string) *pki.Source {
	t.Helper()
	other := New(t, c.Lab, c.clock)
	files := pki.FilesIn(other.Dir(t, role, party))
	if err := os.WriteFile(files.CA, append(other.PEM(), c.PEM()...), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := pki.Open(c.Lab, files, c.clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
