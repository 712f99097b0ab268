// Package release is the custodians' side: each checks a job's whole dossier by itself, commits the privacy budget in
// its own durable ledger, and only then gives its shares; a gate combines them, applies disclosure control in two
// stages, gathers a quorum of signatures and seals the result to the operator.
//
// A custodian trusts nobody's word: it authorises from signed statements, rebuilds the plan from the query, computes
// the result ciphertexts from its own mirror of the blobs, and asks the log for proofs. It refuses to give a second
// share for a noise key under another ciphertext, to open above the cap or the budget, and to act on anything that is
// not in the log. Every refusal is typed, recorded in its ledger and announced in the log.
//
// Shares are one deterministic function of key, question and ciphertext (package he), so a retry, a restart or another
// quorum yields the same bytes. This matters: Lattigo's SECURITY.md warns that two different shares of one party for
// one ciphertext may leak its key.
package release

import "yingzhou.dev/lab/enclave/refusal"

// Rules that a custodian may refuse by, and the errors that carry facts: see package refusal.
var (
	ErrDossier          = refusal.ErrDossier
	ErrUnauthorized     = refusal.ErrUnauthorized
	ErrPlanMismatch     = refusal.ErrPlanMismatch
	ErrForeignKeyset    = refusal.ErrForeignKeyset
	ErrReceipt          = refusal.ErrReceipt
	ErrOutput           = refusal.ErrOutput
	ErrNotLogged        = refusal.ErrNotLogged
	ErrLogFork          = refusal.ErrLogFork
	ErrBudget           = refusal.ErrBudget
	ErrOpenings         = refusal.ErrOpenings
	ErrSecondCiphertext = refusal.ErrSecondCiphertext
	ErrNotCommitted     = refusal.ErrNotCommitted
	ErrCrossCheck       = refusal.ErrCrossCheck
	ErrRelease          = refusal.ErrRelease
	ErrLedger           = refusal.ErrLedger
	ErrPiece            = refusal.ErrPiece
	ErrReplaced         = refusal.ErrReplaced
	ErrDisposed         = refusal.ErrDisposed
	ErrBatch            = refusal.ErrBatch
)

type (
	// Refusal is a custodian's reasoned no.
	Refusal = refusal.Refusal
	// QuorumError says that too few custodians took part.
	QuorumError = refusal.QuorumError
	// CrossCheckError names who gave a share that differs from another holder's.
	CrossCheckError = refusal.CrossCheckError
)

func refuse(rule error, format string, args ...any) *Refusal {
	return refusal.New(rule, format, args...)
}
