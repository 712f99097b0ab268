package db

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

// querier is what a pool and a transaction of either database have in common.
type querier interface {
	exec(ctx context.Context, query string, args ...any) (affected int64, err error)
	rows(ctx context.Context, query string, args ...any) (rows, error)
	row(ctx context.Context, query string, args ...any) row
}

// tables implements sandbox.Records, on its own or inside a transaction.
type tables struct {
	dialect
	read    querier
	planned func(ctx context.Context, q querier, id sandbox.JobID) error // joins the transaction that plans a job
	write   func(ctx context.Context, fn func(querier) error) error      // runs fn in a transaction; perhaps more than once
	parsed  *parsed
}

// dialect is where the two databases' SQL differs.
type dialect struct {
	// arrive makes those who append statements wait for one another until their transactions end: a place in the order
	// of arrival, once seen, is then never followed by an earlier one. Empty where writers exclude each other anyway.
	arrive string
	// now is the database's clock, in microseconds since 1970.
	now string
}

// row is a record to be read. A query for one that finds none fails with sql.ErrNoRows.
type row interface{ Scan(dest ...any) error }

type rows interface {
	row
	Next() bool
	Err() error
	Close()
}

// collect reads every row of a query.
func collect[T any](ctx context.Context, q querier, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	found, err := q.rows(ctx, query, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer found.Close()
	var out []T
	for found.Next() {
		v, err := scan(found)
		if err != nil {
			return nil, explain(err)
		}
		out = append(out, v)
	}
	return out, explain(found.Err())
}

// find says what a query for a single row was after.
func find(err error, what string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", what, sandbox.ErrNotFound)
	}
	return named(err, what)
}

// named says which record an error is about.
func named(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, explain(err))
}

// one insists that a statement touched one row.
func one(n int64, err error) error {
	if err == nil && n != 1 {
		err = fmt.Errorf("%w: %d rows were written", sandbox.ErrConflict, n)
	}
	return err
}

// digest stores a digest as text and none as NULL.
type digest struct{ d *enclave.Digest }

func (v digest) Scan(src any) error {
	*v.d = enclave.Digest{}
	if src == nil {
		return nil
	}
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("%w: a digest is stored as %T", sandbox.ErrDamaged, src)
	}
	d, err := enclave.ParseDigest(text)
	if err != nil {
		return fmt.Errorf("%w: %w", sandbox.ErrDamaged, err)
	}
	*v.d = d
	return nil
}

// text is the stored form of a digest.
func text(d enclave.Digest) any {
	if d.IsZero() {
		return nil
	}
	return d.String()
}

// instant stores a time as microseconds since 1970.
type instant struct{ t *time.Time }

func (v instant) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("%w: a time is stored as %T", sandbox.ErrDamaged, src)
	}
	*v.t = time.UnixMicro(n).UTC()
	return nil
}

// parsed remembers envelopes that were read before, by their stored bytes: statements, keysets and manifests are read many
// times for each job, and hardly ever change. What is given out is shared: nobody may write to it.
type parsed struct {
	mu  sync.Mutex
	all map[enclave.Digest]parsedEnvelope
}

type parsedEnvelope struct {
	data   []byte
	signed enclave.Signed
}

// manyParsed is how many envelopes are remembered before all are forgotten.
const manyParsed = 4096

// envelope is the function of that name, for bytes that may have been parsed before.
func (p *parsed) envelope(kind string, d enclave.Digest, data []byte) (enclave.Signed, error) {
	if p == nil {
		return envelope(kind, d, data)
	}
	p.mu.Lock()
	known, ok := p.all[d]
	p.mu.Unlock()
	if ok && known.signed.Kind == kind && bytes.Equal(known.data, data) {
		return known.signed, nil
	}
	s, err := envelope(kind, d, data)
	if err != nil {
		return s, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil || len(p.all) >= manyParsed {
		p.all = map[enclave.Digest]parsedEnvelope{}
	}
	p.all[d] = parsedEnvelope{data: bytes.Clone(data), signed: s} // the driver may use the buffer again
	return s, nil
}

// envelope parses a stored canon.Signed and checks that it is the one it is filed as.
func envelope(kind string, d enclave.Digest, data []byte) (enclave.Signed, error) {
	var s enclave.Signed
	if err := canon.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s %s: %w: %w", kind, d, sandbox.ErrDamaged, err)
	}
	if s.Kind != kind || s.Digest() != d {
		return s, fmt.Errorf("%s %s: %w: the envelope filed under it is %s %s", kind, d, sandbox.ErrDamaged, s.Kind, s.Digest())
	}
	return s, nil
}
