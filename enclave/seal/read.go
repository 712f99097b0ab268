package seal

import (
	"context"
	"errors"
	"fmt"
	"io"

	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
)

// Reading is two steps that take about as long as each other, splitting the file into fields and encoding them, so each
// has a goroutine. Both are serial by nature: records follow one another in the file, and rows per entity are counted in
// one table.

// A batch is some rows on their way from the first step to the second. Both limits bound memory: the second by the
// length of rows.
const (
	batchRows  = 1024
	batchBytes = 256 << 10
)

type batch struct {
	rows   []table.Row
	fields []string // what rows' Fields point into; a Reader reuses its own
	err    error    // what ended reading, after these rows
}

// add copies a row; the strings themselves stay valid and are shared.
func (b *batch) add(row table.Row) (bytes int) {
	from := len(b.fields)
	b.fields = append(b.fields, row.Fields...)
	row.Fields = b.fields[from:len(b.fields):len(b.fields)]
	b.rows = append(b.rows, row)
	for _, f := range row.Fields {
		bytes += len(f)
	}
	return bytes
}

// split reads the table to its end or first error.
func (s *sealing) split(ctx context.Context, full chan<- *batch, empty <-chan *batch) error {
	for {
		b, err := receive(ctx, empty)
		if err != nil {
			return err
		}
		clear(b.fields) // let go of the text of earlier rows
		b.rows, b.fields, b.err = b.rows[:0], b.fields[:0], nil
		for size := 0; len(b.rows) < batchRows && size < batchBytes && b.err == nil; {
			var row table.Row
			if row, b.err = s.cfg.Table.Next(); b.err == nil {
				size += b.add(row)
			}
		}
		if err := send(ctx, full, b); err != nil || b.err != nil {
			return err
		}
	}
}

// encode fills chunks until the table ends. After a bad row it goes on, so that the report lists the others, but hands
// nothing more over.
func (s *sealing) encode(ctx context.Context, enc *schema.Encoder, in <-chan *batch, back chan<- *batch, full chan<- *chunk, empty <-chan *chunk) error {
	c, err := receive(ctx, empty)
	if err != nil {
		return err
	}
	bad := false
	for {
		b, err := receive(ctx, in)
		if err != nil {
			return err
		}
		for _, row := range b.rows {
			rec, err := enc.Encode(row)
			if bad = bad || err != nil; bad {
				continue
			}
			c.add(rec, s.pseudonym(rec.Key))
			if c.rows < len(c.index[0]) {
				continue
			}
			if err := send(ctx, full, c); err != nil {
				return err
			}
			if c, err = receive(ctx, empty); err != nil {
				return err
			}
			c.rows = 0
		}
		if s.cfg.Progress != nil {
			s.cfg.Progress(enc.Quality().Rows)
		}
		switch {
		case errors.Is(b.err, io.EOF):
			if bad || c.rows == 0 {
				return nil
			}
			return send(ctx, full, c)
		case b.err != nil:
			return fmt.Errorf("%w: %w", ErrRefused, b.err)
		}
		if err := send(ctx, back, b); err != nil {
			return err
		}
	}
}

func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receive prefers the end of ctx to one more value: a long table is given up between two batches.
func receive[T any](ctx context.Context, from <-chan T) (v T, err error) {
	if err := ctx.Err(); err != nil {
		return v, err
	}
	select {
	case v = <-from:
		return v, nil
	case <-ctx.Done():
		return v, ctx.Err()
	}
}
