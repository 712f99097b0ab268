package db

import (
	"context"
	"time"

	"yingzhou.dev/lab/sandbox"
)

// Provider and Connect reach below Open, for tests of migrations and damage.
var (
	Provider = provider
	Connect  = connect
)

// Lease is a job that a test took up by hand.
type Lease struct {
	db *DB
	l  lease
}

// Take takes a job up after its last drive.
func (db *DB) Take(ctx context.Context, id sandbox.JobID, last int64, length time.Duration) (*Lease, bool, error) {
	l, ok, err := db.take(ctx, due{job: id, drive: last}, "test", length)
	return &Lease{db, l}, ok, err
}

// Renew extends the lease.
func (l *Lease) Renew(ctx context.Context) error { return l.db.renew(ctx, l.l, time.Minute) }

// Give ends the lease.
func (l *Lease) Give(ctx context.Context) error { return l.db.give(ctx, l.l, false) }

// Store is the store as the holder may use it.
func (l *Lease) Store() sandbox.Store { return l.db.fenced(l.l) }
