package release

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
)

// Accept takes a dealt piece: opens it, checks it against the keyset's commitment and stores it. A refusal is an
// ErrPiece and stands in the journal.
func (c *Custodian) Accept(ctx context.Context, signed canon.Signed, piece int, sealed []byte, open func(info, sealed []byte) ([]byte, error)) error {
	err := c.accept(ctx, signed, piece, sealed, open)
	var r *Refusal
	if !errors.As(err, &r) {
		return err
	}
	r.Custodian = c.Name()
	c.note(ctx, Refused{Keyset: signed.Digest(), Rule: r.Rule.Error(), Text: r.Error(), At: canon.At(c.cfg.Clock())})
	return r
}

func (c *Custodian) accept(ctx context.Context, signed canon.Signed, piece int, sealed []byte, open func(info, sealed []byte) ([]byte, error)) error {
	roster := c.Roster()
	var ks enclave.Keyset
	by, err := roster.Verify(signed, enclave.KindKeyset, operators.RoleSteward)
	if err == nil {
		err = signed.Open(enclave.KindKeyset, &ks)
	}
	if err == nil {
		err = ks.Validate()
	}
	if err != nil {
		return refuse(ErrPiece, "keyset").Because(err)
	}
	id := keys.PieceID{Keyset: signed.Digest(), Piece: piece}
	no := func(text string, err error) error {
		return refuse(ErrPiece, "piece %d of keyset %s: %s", piece, id.Keyset.Short(), text).Because(err)
	}
	me := slices.Index(ks.Custodians, c.Name())
	if by.Body != ks.Owner || me < 0 || piece < 0 || piece >= len(ks.Pieces) || !ks.Pieces[piece].Holds(me) {
		return no(fmt.Sprintf("it is not for %q or not from its owner %q", c.Name(), ks.Owner), nil)
	}
	plain, err := open(keys.PieceInfo(id, c.Name()), sealed)
	if err != nil {
		return no("it does not open", err)
	}
	defer clear(plain)
	secret, err := keys.ParsePieceSecret(plain)
	if err != nil {
		return no("content", err)
	}
	defer clear(secret.Piece)
	if secret.Commitment() != ks.Pieces[piece].Commitment {
		return no("it is not the piece that the keyset commits to", nil)
	}
	params, err := he.Compile(ks.Params)
	if err != nil {
		return no("parameters", err)
	}
	held, err := keys.ParsePiece(secret.Piece)
	if err != nil {
		return no("content", err)
	}
	k, err := he.ParseKeyPiece(params, held.Key)
	if err != nil {
		return no("content", err)
	}
	k.Erase()
	if err := c.remember(signed, &ks); errors.Is(err, ErrDisposed) {
		return no("dataset", err)
	} else if err != nil {
		return fmt.Errorf("accepting piece %d of keyset %s: %w", piece, id.Keyset.Short(), err)
	}
	err = c.cfg.Keys.Import(ctx, id, secret)
	failpoint.Hit(failpoint.PieceStored)
	return err
}
