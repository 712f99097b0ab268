package store

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
)

func TestSweep(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	needed, old, young := put(t, s, []byte("needed")), put(t, s, []byte("old")), put(t, s, []byte("young"))
	before := time.Now().Add(-time.Hour)
	for _, d := range []enclave.Digest{needed, old} {
		if err := os.Chtimes(s.Path(d), time.Time{}, before.Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	names := func() (map[enclave.Digest]bool, error) { return map[enclave.Digest]bool{needed: true}, nil }
	sweep := func(before time.Time, want int, left ...enclave.Digest) {
		t.Helper()
		n, err := s.Sweep(before, names)
		have, lerr := s.List()
		slices.SortFunc(left, func(a, b enclave.Digest) int { return slices.Compare(a[:], b[:]) })
		if err := errors.Join(err, lerr); err != nil || n != want || !slices.Equal(have, left) {
			t.Errorf("%d blobs are swept and %d left (%v), want %d and %d", n, len(have), err, want, len(left))
		}
	}
	sweep(before, 1, needed, young)
	sweep(before, 0, needed, young)
	sweep(time.Time{}, 1, needed)
	unknown := errors.New("the records cannot be read")
	if n, err := s.Sweep(time.Time{}, func() (map[enclave.Digest]bool, error) { return nil, unknown }); n != 0 || !errors.Is(err, unknown) || !s.Has(needed) {
		t.Errorf("without records %d blobs are swept, %v", n, err)
	}
}

// Blobs that are being recorded are not swept: a holder keeps the sweep from asking what is needed, and the other way round,
// also between processes, which open the folder anew as here.
func TestSweepWaitsForHolders(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := func(how int) error {
		f, err := lockedOpen(other.blobsDir(), how|unix.LOCK_NB)
		if err == nil {
			f.Close()
		}
		return err
	}
	release, err := s.Hold()
	if err != nil {
		t.Fatal(err)
	}
	if err := now(unix.LOCK_EX); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a sweep beside a holder gives %v", err)
	}
	if err := now(unix.LOCK_SH); err != nil {
		t.Errorf("a second holder gives %v", err)
	}
	release()
	asked := false
	if _, err := s.Sweep(time.Time{}, func() (map[enclave.Digest]bool, error) {
		asked = true
		if err := now(unix.LOCK_SH); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("a holder beside a sweep gives %v", err)
		}
		return nil, nil
	}); err != nil || !asked {
		t.Error(err)
	}
	if err := now(unix.LOCK_EX); err != nil {
		t.Errorf("after a sweep the store stays locked: %v", err)
	}
}
