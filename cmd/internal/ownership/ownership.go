// Package ownership holds a database to one lab: what is in one lab's records must never meet another's log.
package ownership

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
)

// setting has the root public key of the lab that a server's database belongs to.
const setting = "lab-root-key"

// ErrForeign means that a database belongs to another lab, or to none where it should.
var ErrForeign = errors.New("the database that was named is not this lab's")

// Claim makes a database a lab's, and refuses one that is another's.
func Claim(ctx context.Context, records *db.DB, root []byte) error {
	return records.Atomic(ctx, func(r sandbox.Records) error {
		owner, err := r.Setting(ctx, setting)
		switch {
		case errors.Is(err, sandbox.ErrNotFound):
			return r.SetSetting(ctx, setting, root)
		case err != nil:
			return err
		case !bytes.Equal(owner, root):
			return fmt.Errorf("%w: it holds another lab's records", ErrForeign)
		}
		return nil
	})
}

// Check refuses a database that is not a lab's already.
func Check(ctx context.Context, records *db.DB, root []byte) error {
	return records.Atomic(ctx, func(r sandbox.Records) error {
		owner, err := r.Setting(ctx, setting)
		if errors.Is(err, sandbox.ErrNotFound) || err == nil && !bytes.Equal(owner, root) {
			return ErrForeign
		}
		return err
	})
}
