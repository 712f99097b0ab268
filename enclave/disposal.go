package enclave

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"yingzhou.dev/lab/operators"
)

// Kinds of the artefacts that end a dataset (art. 19).
const (
	KindDisposalOrder   = "yingzhou.disposal-order.v1"
	KindDestruction     = "yingzhou.destruction.v1"
	KindDisposal        = "yingzhou.disposal.v1"
	KindDisposalReceipt = "yingzhou.disposal-receipt.v1"
)

// Causes of a disposal, as art. 19 lists them: the purpose is achieved, cannot be achieved any more (its time is over),
// or the owner wants it so.
const (
	CauseAchieved  = "achieved"
	CauseExpired   = "expired"
	CauseWithdrawn = "withdrawn"
)

// DisposalOrder is the demand that a dataset be destroyed: by a steward of its owner, or by two officials of the bureau,
// who sign the same bytes. Its log entry, whose subject is the lineage's first keyset, ends the dataset for good: from then
// on no custodian takes part in opening anything of it.
type DisposalOrder struct {
	Dataset string `json:"dataset"`
	Owner   string `json:"owner"`
	Keyset  Digest `json:"keyset"` // lineage
	Cause   string `json:"cause"`
	Reason  string `json:"reason"`
	By      string `json:"by"` // steward, or the first official
	Made    Time   `json:"made"`
}

// Validate checks what an order says by itself.
func (o *DisposalOrder) Validate() error {
	if o.Dataset == "" || o.Owner == "" || o.Keyset.IsZero() || o.Reason == "" {
		return fmt.Errorf("disposal order for dataset %q: dataset, owner, keyset and reason are required", o.Dataset)
	}
	if !slices.Contains([]string{CauseAchieved, CauseExpired, CauseWithdrawn}, o.Cause) {
		return fmt.Errorf("disposal order for dataset %q: cause %q is not %s, %s or %s", o.Dataset, o.Cause, CauseAchieved, CauseExpired, CauseWithdrawn)
	}
	return nil
}

// Destruction is a custodian's word that it destroyed every piece and wrapping key of a lineage that it held, tried to
// use them afterwards, and failed.
type Destruction struct {
	Order     Digest      `json:"order"`
	Keyset    Digest      `json:"keyset"` // lineage
	Destroyed []Destroyed `json:"destroyed"`
	By        string      `json:"by"` // custodian
	Made      Time        `json:"made"`
}

// Destroyed is one piece that is gone.
type Destroyed struct {
	Keyset  Digest `json:"keyset"` // that dealt it: the first one or a refresh
	Piece   int    `json:"piece"`
	Attempt string `json:"attempt"` // what using it gave afterwards
}

// officialsToDispose is how many officials end another body's dataset: what one of them does cannot be taken back.
const officialsToDispose = 2

// OpenOrder reads a disposal order and insists that it is signed by a steward of the owner alone, or by two officials and
// nobody else. People who have left since are still believed. Somebody who may not is an operators.ErrRole, a bad
// signature an operators.ErrSignature.
func OpenOrder(s Signed, roster *operators.Roster) (*DisposalOrder, error) {
	o, signers, err := orderSigners(s, roster)
	if err != nil {
		return nil, err
	}
	if by := signers[0]; by.Role == operators.RoleOfficial && len(signers) < officialsToDispose {
		return nil, fmt.Errorf("disposal order %s: %w: %q alone signed it, two officials have to", s.Digest().Short(), operators.ErrRole, by.Name)
	}
	if !slices.ContainsFunc(signers, func(p operators.Party) bool { return p.Name == o.By }) {
		return nil, fmt.Errorf("disposal order %s: %w: it says that it is by %q, who did not sign it", s.Digest().Short(), operators.ErrSignature, o.By)
	}
	return o, nil
}

// OpenRequest reads an order that one official has signed, its author or who agrees.
func OpenRequest(s Signed, roster *operators.Roster) (*DisposalOrder, error) {
	o, signers, err := orderSigners(s, roster)
	if err == nil && (len(signers) != 1 || signers[0].Role != operators.RoleOfficial) {
		err = fmt.Errorf("disposal request %s: %w: one official signs it first", s.Digest().Short(), operators.ErrRole)
	}
	return o, err
}

// orderSigners verifies every signature of an order: a steward's of the owner, or those of one or two officials.
func orderSigners(s Signed, roster *operators.Roster) (*DisposalOrder, []operators.Party, error) {
	fail := func(rule operators.Rule, format string, a ...any) (*DisposalOrder, []operators.Party, error) {
		return nil, nil, fmt.Errorf("disposal order %s: %w: %s", s.Digest().Short(), rule, fmt.Sprintf(format, a...))
	}
	var o DisposalOrder
	if err := s.Open(KindDisposalOrder, &o); err != nil {
		return fail(operators.ErrInvalid, "%v", err)
	}
	if err := o.Validate(); err != nil {
		return fail(operators.ErrInvalid, "%v", err)
	}
	var signers []operators.Party
	for _, sig := range s.Sigs {
		p, ok := roster.Find(sig.By)
		if !ok || (Signed{Kind: s.Kind, Body: s.Body, Sigs: append(s.Sigs[:0:0], sig)}).Verify(p.Name, p.Key()) != nil {
			return fail(operators.ErrSignature, "not by %q", sig.By)
		}
		if slices.ContainsFunc(signers, func(q operators.Party) bool { return q.Name == p.Name }) {
			return fail(operators.ErrSignature, "%q signed it twice", p.Name)
		}
		signers = append(signers, p)
	}
	if len(signers) == 0 {
		return fail(operators.ErrSignature, "nobody signed it")
	}
	for _, p := range signers {
		switch {
		case p.Role == operators.RoleOfficial && len(signers) <= officialsToDispose:
		case p.Role == operators.RoleSteward && p.Body == o.Owner && len(signers) == 1:
		default:
			return fail(operators.ErrRole, "%q is %s of %s, the dataset is of %q: its steward ends it, or two officials do", p.Name, p.Role, p.Body, o.Owner)
		}
	}
	return &o, signers, nil
}

// Disposal is the certificate: that order, every custodian's destruction, and what the control plane removed.
type Disposal struct {
	Order        Signed   `json:"order"`
	Keysets      []Signed `json:"keysets"` // the whole lineage, oldest first
	Destructions []Signed `json:"destructions"`
	Blobs        []Digest `json:"blobs"`     // sealed blobs of every version, deleted; sorted
	DataKeys     int64    `json:"data_keys"` // data keys of the blob store that were destroyed
	Attempt      string   `json:"attempt"`   // what reading a blob gave afterwards
	By           string   `json:"by"`        // lab
	Made         Time     `json:"made"`
}

// OpenWord reads a custodian's word that it destroyed what an order names.
func OpenWord(s Signed, order Digest, roster *operators.Roster) (*Destruction, error) {
	var word Destruction
	by, err := roster.VerifyPast(s, KindDestruction, operators.RoleCustodian)
	if err == nil {
		err = s.Open(KindDestruction, &word)
	}
	if err == nil && word.Order != order {
		err = fmt.Errorf("%w: custodian %q destroyed on order %s, not on %s", operators.ErrInvalid, by.Name, word.Order.Short(), order.Short())
	}
	if err != nil {
		return nil, err
	}
	return &word, nil
}

// Gone checks that the words given so far are enough: every custodian of the lineage's latest keyset destroyed every piece
// of it that it held. Those who were replaced before need not say so, nor need one that the roster marks absent, as long as
// fewer of them than a quorum stay silent: then each piece that they lack together was destroyed by all who held it, and
// what they hold opens nothing. It returns who is still to be heard.
func Gone(ks *Keyset, latest Digest, words []*Destruction, roster *operators.Roster) (waiting []string) {
	gone := map[string]map[int]bool{}
	for _, w := range words {
		gone[w.By] = map[int]bool{}
		for _, d := range w.Destroyed {
			if d.Keyset == latest {
				gone[w.By][d.Piece] = true
			}
		}
	}
	var absent []string
	for i, name := range ks.Custodians {
		silent := false
		for p, piece := range ks.Pieces {
			silent = silent || piece.Holds(i) && !gone[name][p]
		}
		if !silent {
			continue
		}
		if p, ok := roster.Find(name); ok && p.Absent {
			absent = append(absent, name)
		} else {
			waiting = append(waiting, name)
		}
	}
	if len(absent) >= ks.Quorum {
		waiting = append(waiting, absent...)
	}
	return waiting
}

// CheckDisposal verifies a certificate as anyone can: the order, the owner's keysets, and that the custodians' words are
// enough.
func CheckDisposal(s Signed, roster *operators.Roster) (*Disposal, *DisposalOrder, error) {
	var c Disposal
	if _, err := roster.VerifyPast(s, KindDisposal, operators.RoleLab); err != nil {
		return nil, nil, err
	}
	if err := s.Open(KindDisposal, &c); err != nil {
		return nil, nil, err
	}
	order, err := OpenOrder(c.Order, roster)
	if err != nil {
		return nil, nil, err
	}
	fail := func(format string, a ...any) (*Disposal, *DisposalOrder, error) {
		return nil, nil, fmt.Errorf("certificate of the disposal of dataset %q: %s", order.Dataset, fmt.Sprintf(format, a...))
	}
	for _, k := range c.Keysets {
		by, err := roster.VerifyPast(k, KindKeyset, operators.RoleSteward)
		if err != nil {
			return nil, nil, err
		}
		if by.Body != order.Owner {
			return fail("keyset %s was signed for %q, not for %q", k.Digest().Short(), by.Body, order.Owner)
		}
	}
	ks, latest, err := Lineage(order.Keyset, c.Keysets, 0)
	if err != nil {
		return nil, nil, err
	}
	if ks.Dataset != order.Dataset || ks.Owner != order.Owner {
		return fail("its keysets are of dataset %q of %q", ks.Dataset, ks.Owner)
	}
	var words []*Destruction
	for _, d := range c.Destructions {
		word, err := OpenWord(d, c.Order.Digest(), roster)
		if err != nil {
			return nil, nil, err
		}
		if word.Keyset != order.Keyset || slices.ContainsFunc(words, func(w *Destruction) bool { return w.By == word.By }) {
			return fail("custodian %q speaks of another keyset, or twice", word.By)
		}
		words = append(words, word)
	}
	if waiting := Gone(ks, latest, words, roster); len(waiting) > 0 {
		return fail("%q did not say that they destroyed what they held of keyset %s", waiting, latest.Short())
	}
	return &c, order, nil
}

// DisposalReceipt is the file that `lab dataset certificate` writes and `lab audit verify` reads: a certificate with what
// it takes to verify it offline, under the lab's root key alone.
type DisposalReceipt struct {
	Format      string     `json:"format"` // KindDisposalReceipt
	Roster      Signed     `json:"roster"`
	Certificate Signed     `json:"certificate"`
	Proofs      []LogProof `json:"proofs"` // of the order, of each custodian's word in their order, of the certificate
}

// CheckedDisposal is what a receipt proves.
type CheckedDisposal struct {
	Order       *DisposalOrder
	Certificate *Disposal
	Digest      Digest // of the certificate
	LogSize     int64
}

// Check verifies a receipt from the root key down: roster, certificate, and that the log has the order first, then the
// words, then the certificate. logKeys reads the log's keys from the roster.
func (r *DisposalReceipt) Check(root ed25519.PublicKey, logKeys func(*operators.Roster) (LogKeys, error)) (*CheckedDisposal, error) {
	if r.Format != KindDisposalReceipt {
		return nil, fmt.Errorf("disposal receipt: format %q, want %q", r.Format, KindDisposalReceipt)
	}
	roster, err := operators.OpenRoster(r.Roster, root)
	if err != nil {
		return nil, err
	}
	cert, order, err := CheckDisposal(r.Certificate, roster)
	if err != nil {
		return nil, err
	}
	keys, err := logKeys(roster)
	if err != nil {
		return nil, err
	}
	want := []Entry{{Type: EntryDisposal, Subject: order.Keyset, By: order.By}}
	for _, d := range cert.Destructions {
		want = append(want, Entry{Type: EntryDestruction, Subject: d.Digest(), By: d.Sigs[0].By})
	}
	want = append(want, Entry{Type: EntryCertificate, Subject: r.Certificate.Digest(), By: cert.By})
	if len(r.Proofs) != len(want) {
		return nil, fmt.Errorf("disposal receipt: %w: %d proofs for %d entries", ErrLogProof, len(r.Proofs), len(want))
	}
	out := &CheckedDisposal{Order: order, Certificate: cert, Digest: r.Certificate.Digest()}
	first, last := int64(-1), r.Proofs[len(want)-1].Index
	for i, p := range r.Proofs {
		e, cp, err := p.Check(keys)
		if err != nil {
			return nil, fmt.Errorf("disposal receipt: %w", err)
		}
		if e.Type != want[i].Type || e.Subject != want[i].Subject || e.By != want[i].By {
			return nil, fmt.Errorf("disposal receipt: %w: proof %d is of a %s by %q, want a %s by %q", ErrLogProof, i, e.Type, e.By, want[i].Type, want[i].By)
		}
		if i > 0 && p.Index <= first || p.Index > last {
			return nil, fmt.Errorf("disposal receipt: %w: its steps are not in the log in their order", ErrLogProof)
		}
		if i == 0 {
			first = p.Index
		}
		out.LogSize = max(out.LogSize, cp.Size)
	}
	return out, nil
}
