package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// Dealing says for whom a dataset's key is made.
type Dealing struct {
	Dataset     string
	Params      string
	Custodians  []operators.Party // who hold the pieces
	Quorum      int               // q with 2q > n
	EntityRows  int64             // m
	BudgetMicro int64
	Made        canon.Time
}

// Dealt is a keyset on its way to the custodians.
type Dealt struct {
	Keyset canon.Signed
	Key    *he.SecretKey // stays at the agency, for later versions
	Pieces []DealtPiece
}

// DealtPiece is one piece for one custodian, encrypted to it.
type DealtPiece struct {
	Custodian string
	Piece     int
	Sealed    []byte
}

// Deal draws a dataset's key, splits it and encrypts the pieces to their holders. Replicated additive sharing: there is
// a piece for each set of q−1 custodians, held by all the others, so any q hold every piece and q−1 lack at least one
// (Ito, Saito and Nishizeki 1987). The steward signs the keyset, which commits to each piece.
func Deal(d Dealing, steward keys.Signer, body string) (*Dealt, error) {
	n := len(d.Custodians)
	if d.Quorum < 2 || d.Quorum > n || 2*d.Quorum <= n {
		return nil, fmt.Errorf("dealing the key of dataset %q: a quorum of %d of %d custodians is not allowed: it must be at least 2 and more than half", d.Dataset, d.Quorum, n)
	}
	if d.EntityRows < 1 || d.BudgetMicro < 1 {
		return nil, fmt.Errorf("dealing the key of dataset %q: rows per entity and budget must be positive", d.Dataset)
	}
	params, err := he.Compile(d.Params)
	if err != nil {
		return nil, fmt.Errorf("dealing the key of dataset %q: %w", d.Dataset, err)
	}
	key, err := he.GenerateKey(params)
	if err != nil {
		return nil, err
	}
	ks := enclave.Keyset{Dataset: d.Dataset, Owner: body, Params: d.Params, Quorum: d.Quorum, EntityRows: d.EntityRows,
		BudgetMicro: d.BudgetMicro, Epoch: 1, By: steward.Name(), Made: d.Made}
	return share(ks, key, d.Custodians, steward)
}

// Refresh deals the key of a lineage again. The new pieces are the old ones plus a fresh uniform sharing of zero: the
// sums s and s² stay, so what was sealed stays valid, and old pieces are of no use with new ones. The PRF keys are new
// too, because whoever held a piece knows its noise and its smudging: with them the epoch, so questions that were paid
// for are asked anew, and the owner says what they may cost. Lineage secrets stay with those who stay.
func Refresh(before *enclave.Keyset, previous enclave.Digest, custodians []operators.Party, budgetMicro int64, made canon.Time, key *he.SecretKey, steward keys.Signer) (*Dealt, error) {
	ks := *before
	if ks.Origin.IsZero() {
		ks.Origin = previous
	}
	ks.Previous, ks.Epoch, ks.BudgetMicro, ks.By, ks.Made = previous, before.Epoch+1, budgetMicro, steward.Name(), made
	return share(ks, key, custodians, steward)
}

// share splits a key into the pieces of a keyset, which it completes and has signed, and encrypts them to their holders.
func share(ks enclave.Keyset, key *he.SecretKey, custodians []operators.Party, steward keys.Signer) (*Dealt, error) {
	ks.Custodians, ks.Pieces = nil, nil
	for _, c := range custodians {
		ks.Custodians = append(ks.Custodians, c.Name)
	}
	without := enclave.Subsets(len(custodians), ks.Quorum-1)
	parts, err := key.Split(len(without))
	if err != nil {
		return nil, err
	}
	secrets := make([]keys.PieceSecret, len(parts))
	defer func() {
		for i := range secrets {
			clear(secrets[i].Piece)
			clear(secrets[i].PRF[:])
		}
	}()
	for i, part := range parts {
		lineage, err := lineageSecret(key, ks.Custodians, without[i])
		if err != nil {
			return nil, fmt.Errorf("dealing the key of dataset %q: %w", ks.Dataset, err)
		}
		plain := part.MarshalBinary()
		part.Erase()
		secrets[i].Piece = keys.Piece{Lineage: lineage[:], Key: plain}.Encode()
		clear(lineage[:])
		clear(plain)
		if _, err := rand.Read(secrets[i].PRF[:]); err != nil {
			return nil, fmt.Errorf("dealing the key of dataset %q: %w", ks.Dataset, err)
		}
		ks.Pieces = append(ks.Pieces, enclave.Piece{Without: without[i], Commitment: secrets[i].Commitment()})
	}
	if err := ks.Validate(); err != nil {
		return nil, fmt.Errorf("dealing: %w", err)
	}
	out := &Dealt{Key: key}
	if out.Keyset, err = keys.SealWith(steward, enclave.KindKeyset, ks); err != nil {
		return nil, err
	}
	for i := range secrets {
		plain := secrets[i].Encode()
		for c, party := range custodians {
			if !ks.Pieces[i].Holds(c) {
				continue
			}
			sealed, err := keys.SealTo(party.HPKE, keys.PieceInfo(keys.PieceID{Keyset: out.Keyset.Digest(), Piece: i}, party.Name), plain)
			if err != nil {
				clear(plain)
				return nil, fmt.Errorf("dealing piece %d to %q: %w", i, party.Name, err)
			}
			out.Pieces = append(out.Pieces, DealtPiece{Custodian: party.Name, Piece: i, Sealed: sealed})
		}
		clear(plain)
	}
	return out, nil
}

// lineageSecret is the part of component keys that goes with a piece. It follows from the owner's key and from the names of
// those who do not hold the piece, so it is the same in every dealing.
func lineageSecret(key *he.SecretKey, custodians []string, without []int) ([keys.LineageBytes]byte, error) {
	names := []string{}
	for _, w := range without {
		names = append(names, custodians[w])
	}
	slices.Sort(names)
	return key.Derive("yingzhou lineage secret v1\x00" + string(canon.MustMarshal(names)))
}

// nodeSecret is what a custodian of a keyset will have, by its pieces, for the component keys of its node.
func nodeSecret(key *he.SecretKey, ks *enclave.Keyset, custodian string) (s shares.NodeSecret, err error) {
	at := slices.Index(ks.Custodians, custodian)
	if at < 0 {
		return s, fmt.Errorf("%q is not a custodian of the keyset of dataset %q", custodian, ks.Dataset)
	}
	var held [][]byte
	defer func() {
		for _, part := range held {
			clear(part)
		}
	}()
	for _, p := range ks.Pieces {
		if !p.Holds(at) {
			continue
		}
		part, err := lineageSecret(key, ks.Custodians, p.Without)
		if err != nil {
			return s, err
		}
		held = append(held, part[:])
	}
	return shares.NewNodeSecret(held), nil
}

// Manifest assembles and signs the manifest of a sealed version.
func Manifest(res *Result, cfg Config, version int64, previous enclave.Digest, owner, format string, steward keys.Signer, made canon.Time) (canon.Signed, *enclave.Manifest, error) {
	if len(res.Layouts) == 0 {
		return canon.Signed{}, nil, errors.New("a manifest needs at least one sealed layout")
	}
	m := &enclave.Manifest{Dataset: cfg.Schema.Sealing.Dataset, Version: version, Previous: previous, Keyset: cfg.Keyset, Owner: owner,
		Catalog: cfg.Schema.Catalog(format), Columns: res.Columns, RowsBound: res.RowsBound, Layouts: res.Layouts, By: steward.Name(), Made: made}
	signed, err := keys.SealWith(steward, enclave.KindManifest, m)
	return signed, m, err
}
