// Package seal runs at the agency and nowhere else: it is the only place where source rows and a dataset's secret key
// meet. It deals the key to the custodians (Deal) and turns a table and its schema into sealed blobs and a Manifest
// (Seal), in memory that does not grow with the number of rows.
//
// A table that fails in one row is refused whole: nothing is left behind, and the report names rows and columns but
// never a value.
package seal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/enclave/store"
)

var (
	// ErrRefused means that the table does not fit its schema; the Quality report says where.
	ErrRefused = errors.New("the table is refused whole")
	// ErrTooWide means that numbers do not fit the plaintext of the dataset's parameter set: one row's by the schema's
	// bounds, or a cube's totals.
	ErrTooWide = errors.New("values do not fit the range")
)

// Forms says which layouts of a schema are sealed.
type Forms int

// Forms of sealing, which may be combined.
const (
	HE    Forms = 1 << iota // cubes and rows, under the dataset's key
	Split                   // shares
)

func (f Forms) has(kind string) bool {
	if kind == enclave.Shares {
		return f&Split != 0
	}
	return f == 0 || f&HE != 0
}

// Config is what one sealing needs. Key is needed for the form HE; all other fields but Forms, Shares, Progress and
// Workers are required.
type Config struct {
	Table    table.Reader
	Schema   *schema.Schema
	Key      *he.SecretKey
	Params   *he.Params
	Keyset   enclave.Digest // names Key in every blob
	Blobs    *store.Store
	Forms    Forms            // which of the schema's layouts; 0 = HE
	Shares   *Sharing         // needed for the form Split
	Workers  int              // sealing goroutines; 0 = 1
	Progress func(rows int64) // called now and then; may be nil
}

// Result is what sealing leaves: the manifest's columns, layouts and bound, and the quality report.
type Result struct {
	Columns   []enclave.Column
	Layouts   []enclave.Layout
	Rows      int64 // exact count, for the agency's own eyes
	RowsBound int64 // what the manifest publishes
	Quality   *schema.Quality
}

// Seal reads the table once, encodes it and writes one blob per vector. On any error every blob is removed again; the
// Result then holds the quality report alone, or is nil where the schema does not fit the table's header.
func Seal(ctx context.Context, cfg Config) (*Result, error) {
	return run(ctx, cfg, func() (blobWriter, error) { return cfg.Blobs.Create() })
}

// blobWriter is a blob being written: a *store.Writer, or in tests one whose disk fails.
type blobWriter interface {
	io.Writer
	Commit() (enclave.Digest, int64, error)
	Abort() error
}

func run(ctx context.Context, cfg Config, create func() (blobWriter, error)) (_ *Result, err error) {
	enc, err := schema.NewEncoder(cfg.Schema, cfg.Table.Header())
	if err != nil {
		return nil, err
	}
	cols, err := cfg.Schema.Columns()
	if err != nil {
		return nil, err
	}
	plan, err := cfg.Schema.Layouts()
	if err != nil {
		return nil, err
	}
	res := &Result{Columns: cols, Quality: enc.Quality()}
	s := &sealing{cfg: cfg, create: create, cols: cols}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.abort())
		}
		err = errors.Join(err, s.closeShares())
	}()
	plan = slices.DeleteFunc(plan, func(l schema.SealedLayout) bool { return !cfg.Forms.has(l.Kind) })
	if len(plan) == 0 {
		return res, errors.New("sealing: the schema has no layout of the form asked for")
	}
	if err := s.prepareShares(plan); err != nil {
		return res, err
	}
	for _, l := range plan {
		if err := s.addLayout(l); err != nil {
			return res, err
		}
	}
	if err := s.run(ctx, enc); err != nil {
		return res, err
	}
	layouts, err := s.commit()
	if err != nil {
		return res, err
	}
	res.Rows = enc.Quality().Rows
	res.RowsBound = int64(1) << max(10, bits.Len64(uint64(res.Rows-1)))
	res.Layouts = layouts
	return res, nil
}

// sealing is the state of one run: the layouts being written and a pool of sealers.
type sealing struct {
	cfg     Config
	create  func() (blobWriter, error)
	cols    []enclave.Column
	layouts []*layoutState
	sealers []*he.Sealer
	done    []enclave.Digest // committed blobs, removed again if a later one fails
	sharing *splitting       // nil without shares
}

// layoutState is one layout being sealed.
type layoutState struct {
	schema.SealedLayout
	axes    []axis
	vectors []*vectorState
	totals  [][]int64 // cube: per vector, one total per cell
	rows    int64     // shares: rows added so far
}

// axis locates a row in an index space.
type axis struct {
	cols []int // positions in the record
	size []int64
}

// vectorState is one vector being written.
type vectorState struct {
	name   string
	seed   [32]byte
	w      blobWriter
	chunks int64
	value  valueOf
	share  *shares.Column // of a shares layout
}

func (s *sealing) addLayout(l schema.SealedLayout) error {
	st := &layoutState{SealedLayout: l}
	for _, names := range l.Axes {
		var a axis
		for _, n := range names {
			i, c := s.column(n)
			a.cols, a.size = append(a.cols, i), append(a.size, int64(c.Size()))
		}
		st.axes = append(st.axes, a)
	}
	s.layouts = append(s.layouts, st)
	for _, name := range l.Vectors {
		v := &vectorState{name: name}
		if _, err := rand.Read(v.seed[:]); err != nil {
			return fmt.Errorf("sealing vector %q: %w", name, err)
		}
		var err error
		if v.value, err = s.valueOf(st, name); err != nil {
			return err
		}
		if l.Kind == enclave.Shares {
			if err := s.addShare(st, v); err != nil {
				return err
			}
			continue
		}
		page, err := evaluator.NewBlobHeader(s.cfg.Keyset, s.cfg.Params.Set.Name, l.Kind, name, v.seed).Encode()
		if err != nil {
			return err
		}
		if v.w, err = s.create(); err != nil {
			return err
		}
		st.vectors = append(st.vectors, v)
		if _, err := v.w.Write(page); err != nil {
			return fmt.Errorf("sealing vector %q: %w", name, err)
		}
		if l.Kind == enclave.Cube {
			cells := int64(1)
			for _, n := range st.axes[0].size {
				cells *= n
			}
			st.totals = append(st.totals, make([]int64, cells))
		}
	}
	return nil
}

func (s *sealing) column(name string) (int, enclave.Column) {
	for i, c := range s.cols {
		if c.Name == name {
			return i, c
		}
	}
	panic("seal: the schema's layouts name only its own columns")
}

// run reads, encodes and seals at the same time, sealing one chunk of N rows behind.
func (s *sealing) run(ctx context.Context, enc *schema.Encoder) error {
	for range max(1, s.cfg.Workers) {
		if s.cfg.Forms != 0 && s.cfg.Forms&HE == 0 {
			s.sealers = append(s.sealers, nil) // nothing is encrypted homomorphically
			continue
		}
		sealer, err := he.NewSealer(s.cfg.Key, [32]byte{})
		if err != nil {
			return err
		}
		s.sealers = append(s.sealers, sealer)
	}
	g, ctx := errgroup.WithContext(ctx)
	read, used := make(chan *batch, 2), make(chan *batch, 3)
	for range cap(used) {
		used <- &batch{}
	}
	full, empty := make(chan *chunk, 1), make(chan *chunk, 2)
	for range cap(empty) {
		empty <- newChunk(s.cols, s.cfg.Params.N())
	}
	g.Go(func() error { return s.split(ctx, read, used) })
	g.Go(func() error {
		defer close(full)
		return s.encode(ctx, enc, read, used, full, empty)
	})
	g.Go(func() error {
		for c := range full {
			if err := s.sealChunk(c); err != nil {
				return err
			}
			if err := send(ctx, empty, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := enc.Quality().Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if enc.Quality().Rows == 0 {
		return fmt.Errorf("%w: %w: it has a header but no row", ErrRefused, table.ErrEmpty)
	}
	if err := s.pad(); err != nil {
		return err
	}
	return s.sealCubes()
}

// commit makes every blob durable and describes the layouts. The manifest that names them is written later, so a crash
// in between leaves unnamed blobs, which the store's owner may sweep.
func (s *sealing) commit() ([]enclave.Layout, error) {
	var out []enclave.Layout
	for _, st := range s.layouts {
		l := enclave.Layout{Name: st.Name, Kind: st.Kind, Axes: st.Axes, Vectors: []enclave.Vector{}}
		for _, v := range st.vectors {
			commitments, err := s.finishShare(v)
			if err != nil {
				return nil, err
			}
			d, n, err := v.w.Commit()
			s.done = append(s.done, d) // also after an error: the blob may be visible and only perhaps durable
			if err != nil {
				return nil, fmt.Errorf("sealing vector %q: %w", v.name, err)
			}
			l.Vectors = append(l.Vectors, enclave.Vector{Name: v.name, Blob: d, Bytes: n, Chunks: v.chunks, Commitments: commitments})
		}
		if st.Kind == enclave.Shares {
			if err := s.handOut(&l, st.rows); err != nil {
				return nil, err
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// abort leaves nothing behind; what it could not remove, the store's owner may sweep.
func (s *sealing) abort() error {
	var errs []error
	for _, st := range s.layouts {
		for _, v := range st.vectors {
			if v.w != nil {
				errs = append(errs, v.w.Abort())
			}
		}
	}
	for _, d := range s.done {
		errs = append(errs, s.cfg.Blobs.Delete(d))
	}
	return errors.Join(errs...)
}
