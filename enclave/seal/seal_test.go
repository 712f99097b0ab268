package seal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/internal/canon"
)

// Rows of several chunks, so that the last one is short, and totals that anyone can work out.
func TestSealedVectorsAddUp(t *testing.T) {
	const rows = 20_011 // 3 chunks of 8192
	in, err := table.NewCSV(newGenerated(rows), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, text, in)
	var seen []int64
	w.cfg.Progress = func(n int64) { seen = append(seen, n) }
	res, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if res.Rows != rows || res.RowsBound != 1<<15 || res.Quality.Columns[3].Missing != 6671 || seen[len(seen)-1] != rows {
		t.Errorf("sealed %d rows, bound %d, %d missing, progress up to %d", res.Rows, res.RowsBound, res.Quality.Columns[3].Missing, seen[len(seen)-1])
	}
	if n := w.files(); n != 6+5 {
		t.Errorf("the store has %d files, want one per vector", n)
	}
	var m3, debt, present, square int64
	for i := range int64(rows) {
		x := i%200*10 + i%10 - 1000
		m3, square = m3+x, square+x*x
		switch i % 3 {
		case 1:
			debt, present = debt-7, present+1
		case 2:
			debt, present = debt+9, present+1
		}
	}
	all := []int64{0, 1, 2}
	for _, c := range []struct {
		layout, vector string
		want           int64
	}{
		{"cube", "n", rows}, {"cube", "s:m3", m3}, {"cube", "q:m3", square}, {"cube", "s:debt", debt}, {"cube", "n:debt", present},
		{"rows", "n", rows}, {"rows", "i:town:0", 6671}, {"rows", "i:town:1", 6670}, {"rows", "i:town:2", 6670}, {"rows", "s:m3", m3},
	} {
		if got := w.sum(res.Layouts, c.layout, c.vector, all...); got != c.want {
			t.Errorf("layout %s, vector %s adds up to %d, want %d", c.layout, c.vector, got, c.want)
		}
	}
	if got := w.sum(res.Layouts, "cube", "n", 1); got != 6670 {
		t.Errorf("cell 1 has %d rows", got)
	}
	for _, l := range res.Layouts {
		want := map[string]int64{"cube": 1, "rows": 3}[l.Name]
		for _, v := range l.Vectors {
			if v.Chunks != want || v.Bytes != evaluator.BlobHeaderBytes+want*w.p.ChunkBytes() {
				t.Errorf("%s: vector %s has %d ciphertexts in %d bytes", l.Name, v.Name, v.Chunks, v.Bytes)
			}
		}
	}
}

// A refused table leaves nothing in the store, and says where and not what.
func TestSealRefusesTheWholeTable(t *testing.T) {
	const header, good = "id,town,m3,debt\n", "h1,a,10.5,\n"
	many := strings.Repeat(good, 20_000) // two chunks are sealed by then
	for name, c := range map[string]struct {
		table string
		want  error
		bad   int64
	}{
		"bad row at once":      {header + "h1,zzz,10.5,\n" + many, seal.ErrRefused, 1},
		"bad row late":         {header + many + "h1,zzz,10.5,\n", seal.ErrRefused, 1},
		"every bad row listed": {header + "h1,zzz,1,\n" + many + "h2,zzz,1,\nh3,a,500,\n", seal.ErrRefused, 3},
		"no row":               {header, table.ErrEmpty, 0},
		"broken line late":     {header + many + "h1,a\n", table.ErrFields, 0},
		"bad row, broken line": {header + "h1,zzz,1,\n" + many + "h1,a\n", table.ErrFields, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, text, csv(t, c.table))
			res, err := seal.Seal(t.Context(), w.cfg)
			if !errors.Is(err, seal.ErrRefused) || !errors.Is(err, c.want) {
				t.Errorf("it gives %v, want %v", err, c.want)
			}
			if err == nil || strings.Contains(err.Error(), "zzz") || strings.Contains(err.Error(), "500") {
				t.Errorf("the error holds a value: %v", err)
			}
			if res == nil || res.Quality.BadRows != c.bad || res.Layouts != nil || res.Rows != 0 {
				t.Errorf("result %+v, want a report of %d bad rows and nothing else", res, c.bad)
			}
			if n := w.files(); n != 0 {
				t.Errorf("%d files are left", n)
			}
		})
	}
	w := newWorld(t, text, csv(t, "id,town,m3\n"))
	var problems schema.Problems
	if res, err := seal.Seal(t.Context(), w.cfg); res != nil || !errors.As(err, &problems) || w.files() != 0 {
		t.Errorf("a table without a field gives %+v, %v", res, err)
	}
}

func TestSealRefusesEntitiesWithTooManyRows(t *testing.T) {
	w := newWorld(t, strings.Replace(text, "8388607", "2", 1), csv(t, "id,town,m3,debt\nh1,a,1,\nh2,a,1,\nh1,a,1,\nh1,b,1,\n"))
	res, err := seal.Seal(t.Context(), w.cfg)
	if !errors.Is(err, seal.ErrRefused) || res.Quality.Beyond != 1 || w.files() != 0 {
		t.Errorf("it gives %v with %+v and leaves %d files", err, res.Quality, w.files())
	}
}

// What cannot fit is refused by the declared bounds before a row is read; what depends on the rows, afterwards.
func TestSealRefusesValuesThatDoNotFit(t *testing.T) {
	wide := func(maximum string) string { return strings.Replace(text, `"maximum": 200`, `"maximum": `+maximum, 1) }
	rowsOnly := func(s string) string {
		return strings.Replace(s, `{"name": "cube", "kind": "cube", "dims": ["town"], "measures": ["m3", "debt"]},`, "", 1)
	}
	// t/2 is about 2^35, so a square fits up to 2^17.5: reach 185363 is the last.
	for name, c := range map[string]struct {
		schema, table, want string
	}{
		"square just fits":     {wide("37072.6"), "h1,a,0,\n", ""},
		"square does not":      {wide("37072.8"), "h1,a,0,\n", `vector "q:m3"`},
		"sum of rows fits":     {rowsOnly(wide("6000000000")), "h1,a,0,\n", ""},
		"sum of rows does not": {rowsOnly(wide("7000000000")), "h1,a,0,\n", `vector "s:m3"`},
		"square beyond 2^63":   {wide("6000000000"), "h1,a,0,\n", `vector "q:m3"`},
		"total of a cell":      {wide("37000"), strings.Repeat("h1,a,0,\n", 2), `vector "q:m3"`},
		"totals of two cells":  {wide("37000"), "h1,a,0,\nh1,b,0,\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.schema, csv(t, "id,town,m3,debt\n"+c.table))
			_, err := seal.Seal(t.Context(), w.cfg)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!errors.Is(err, seal.ErrTooWide) || !strings.Contains(err.Error(), c.want) || w.files() != 0):
				t.Errorf("it gives %v and leaves %d files", err, w.files())
			}
		})
	}
}

// Totals of a wide set could pass 2^63 and come back looking small.
func TestTotalsDoNotWrapAround(t *testing.T) {
	wide := strings.NewReplacer("bgv13-t36", "bgv14-t58", `"maximum": 200`, `"maximum": 70000000`).Replace(text)
	w := newWorld(t, wide, csv(t, "id,town,m3,debt\n"+strings.Repeat("h1,a,0,\n", 200)))
	if _, err := seal.Seal(t.Context(), w.cfg); !errors.Is(err, seal.ErrTooWide) || w.files() != 0 {
		t.Errorf("200 squares of 2^56 give %v and leave %d files", err, w.files())
	}
}

func TestSealStopsWhenItIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	in, err := table.NewCSV(newGenerated(1<<20), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, text, in)
	w.cfg.Progress = func(rows int64) {
		if rows > 30_000 {
			cancel(errors.New("enough"))
		}
	}
	res, err := seal.Seal(ctx, w.cfg)
	if !errors.Is(err, context.Canceled) || res.Layouts != nil || res.Quality.Rows > 60_000 {
		t.Errorf("it gives %v after %d rows", err, res.Quality.Rows)
	}
	if n := w.files(); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

// disk is full after so many bytes, or fails at its so many-th commit.
type disk struct {
	room    atomic.Int64
	commits atomic.Int64
	after   bool // the commit fails only once the blob is visible
}

func (d *disk) Write(blob io.Writer, p []byte) (int, error) {
	if d.room.Add(-int64(len(p))) < 0 {
		n, _ := blob.Write(p[:len(p)/2])
		return n, fmt.Errorf("writing blob: %w", syscall.ENOSPC)
	}
	return blob.Write(p)
}

func (d *disk) Commit(commit func() (enclave.Digest, int64, error)) (enclave.Digest, int64, error) {
	if d.commits.Add(-1) > 0 {
		return commit()
	}
	if !d.after {
		return enclave.Digest{}, 0, syscall.EIO
	}
	digest, _, _ := commit()
	return digest, 0, syscall.EIO
}

func TestSealOnAFailingDisk(t *testing.T) {
	const chunk = 8192 * 3 * 8
	for name, c := range map[string]struct {
		room, commits int64
		after         bool
		want          error
	}{
		"full at the first header":   {100, 1000, false, syscall.ENOSPC},
		"full in the first chunk":    {11*evaluator.BlobHeaderBytes + chunk/2, 1000, false, syscall.ENOSPC},
		"full in the last cube":      {11*evaluator.BlobHeaderBytes + (3*5+6)*chunk - 1, 1000, false, syscall.ENOSPC},
		"first commit fails":         {1 << 30, 1, false, syscall.EIO},
		"last commit fails":          {1 << 30, 11, false, syscall.EIO},
		"commit fails once visible":  {1 << 30, 5, true, syscall.EIO},
		"nothing fails, to be sure":  {1 << 30, 1000, false, nil},
		"exactly as much as needed ": {11*evaluator.BlobHeaderBytes + (3*5+6)*chunk, 1000, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := table.NewCSV(newGenerated(20_000), table.Options{})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, text, in)
			d := &disk{after: c.after}
			d.room.Store(c.room)
			d.commits.Store(c.commits)
			res, err := seal.SealOn(t.Context(), w.cfg, d)
			if !errors.Is(err, c.want) {
				t.Errorf("it gives %v, want %v", err, c.want)
			}
			if err != nil && (res.Layouts != nil || w.files() != 0) {
				t.Errorf("%d layouts and %d files are left", len(res.Layouts), w.files())
			}
		})
	}
}

// Peak memory must not depend on the number of rows. A garbage collector makes it approximate; sixteen times the rows
// would need 60 MB more if they were kept.
func TestMemoryDoesNotGrowWithRows(t *testing.T) {
	peak := func(rows int) (most uint64) {
		in, err := table.NewCSV(newGenerated(rows), table.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, strings.Replace(text, "bgv13-t36", "bgv14-t50", 1), in)
		next := int64(0)
		w.cfg.Progress = func(n int64) {
			if n < next {
				return
			}
			next = n + int64(rows)/16
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
		if _, err := seal.Seal(t.Context(), w.cfg); err != nil {
			t.Fatal(err)
		}
		return most
	}
	rows := 1 << 20
	if testing.Short() {
		rows = 1 << 18
	}
	small, large := peak(1<<16), peak(rows)
	t.Logf("peak of live memory: %d KiB with 2^16 rows, %d KiB with %d", small>>10, large>>10, rows)
	if large > small+4<<20 {
		t.Errorf("memory grew from %d KiB to %d KiB", small>>10, large>>10)
	}
}

func TestManifestDescribesWhatWasSealed(t *testing.T) {
	w := newWorld(t, text, csv(t, "id,town,m3,debt\nh1,a,1,\n"))
	id, err := keys.NewIdentity("lin.hua")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := seal.Manifest(&seal.Result{}, w.cfg, 1, enclave.Digest{}, "水务局", "csv", id, canon.Time{}); err == nil {
		t.Error("a manifest of nothing was made")
	}
	res, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	previous := canon.Sum([]byte("version 1"))
	signed, m, err := seal.Manifest(res, w.cfg, 2, previous, "水务局", "csv", id, canon.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var read enclave.Manifest
	if err := errors.Join(signed.Verify("lin.hua", id.Verify()), signed.Open(enclave.KindManifest, &read)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*m, read); diff != "" {
		t.Errorf("signed is another manifest (-returned +signed)\n%s", diff)
	}
	if m.Dataset != "water" || m.Version != 2 || m.Previous != previous || m.Keyset != w.cfg.Keyset || m.RowsBound != 1024 || m.Catalog.Format != "csv" || len(m.Layouts) != 2 || m.By != "lin.hua" {
		t.Errorf("manifest %+v", m)
	}
}
