// Package sealtest helps tests that play the custodians of a sealed dataset.
package sealtest

import (
	"testing"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/seal"
)

// NodeSecret opens the pieces that were dealt to a custodian, and gathers from them what its node's component keys are
// wrapped under.
func NodeSecret(t testing.TB, dealt *seal.Dealt, custodian *keys.Identity) shares.NodeSecret {
	t.Helper()
	var lineage [][]byte
	for _, p := range dealt.Pieces {
		if p.Custodian != custodian.Name() {
			continue
		}
		plain, err := custodian.Open(keys.PieceInfo(keys.PieceID{Keyset: dealt.Keyset.Digest(), Piece: p.Piece}, p.Custodian), p.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := keys.ParsePieceSecret(plain)
		if err != nil {
			t.Fatal(err)
		}
		held, err := keys.ParsePiece(secret.Piece)
		if err != nil {
			t.Fatal(err)
		}
		lineage = append(lineage, held.Lineage)
	}
	if len(lineage) == 0 {
		t.Fatalf("nothing was dealt to %q", custodian.Name())
	}
	return shares.NewNodeSecret(lineage)
}
