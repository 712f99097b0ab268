package operators

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/internal/canon"
)

// Root is the name under which the lab's root key signs rosters. It is nobody's name in the roster.
const Root = "root"

// hpkeSize is the length of an ML-KEM-768 + X25519 public key: 1184 + 32 bytes (draft-connolly-cfrg-xwing-kem).
const hpkeSize = 1184 + 32

var roles = []Role{RoleSteward, RoleAnalyst, RoleOfficial, RoleAuditor, RoleCustodian, RoleNode, RoleLab}

// OpenRoster checks the root key's signature and only then reads the roster. Errors match ErrRoster, a bad signature
// also ErrSignature. Refusing a roster older than the last one seen is the caller's: it alone remembers a Serial.
func OpenRoster(signed Signed, root ed25519.PublicKey) (*Roster, error) {
	if len(signed.Sigs) != 1 {
		return nil, fmt.Errorf("opening roster: %w: it carries %d signatures, want the root key's alone", ErrRoster, len(signed.Sigs))
	}
	if err := signed.Verify(signed.Sigs[0].By, root); err != nil {
		return nil, fmt.Errorf("opening roster: %w: not by the root key: %w", ErrRoster, err)
	}
	var r Roster
	if err := signed.Open(KindRoster, &r); err != nil {
		return nil, fmt.Errorf("opening roster: %w: %w", ErrRoster, err)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("opening roster: %w", err)
	}
	return &r, nil
}

// Validate checks what the rest of the lab takes for granted: one name, one key and one known role per party, and
// custodians of different bodies with a quorum q such that 2q > n. All faults come at once; they match ErrRoster.
func (r *Roster) Validate() error {
	var errs []error
	fault := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if r.Lab == "" {
		fault("lab has no name")
	}
	if r.Serial < 1 {
		fault("serial %d is not positive", r.Serial)
	}
	names, keys := map[string]bool{}, map[string]string{}
	for i, p := range r.Parties {
		if p.Name == "" || p.Name == Root {
			fault("party %d is named %q", i, p.Name)
		}
		if names[p.Name] {
			fault("name %q is given twice", p.Name)
		}
		names[p.Name] = true
		if !slices.Contains(roles, p.Role) {
			fault("party %q has unknown role %q", p.Name, p.Role)
		}
		if p.Body == "" {
			fault("party %q acts for nobody: name its body", p.Name)
		}
		if len(p.Verify) != ed25519.PublicKeySize {
			fault("party %q has a verification key of %d bytes, want %d", p.Name, len(p.Verify), ed25519.PublicKeySize)
		} else if other, taken := keys[string(p.Verify)]; taken { // else one person could approve twice
			fault("parties %q and %q share a verification key", other, p.Name)
		} else {
			keys[string(p.Verify)] = p.Name
		}
		if n := len(p.HPKE); n != 0 && n != hpkeSize {
			fault("party %q has an HPKE key of %d bytes, want %d", p.Name, n, hpkeSize)
		}
	}
	errs = append(errs, r.validateQuorum()...)
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrRoster, errors.Join(errs...))
	}
	return nil
}

func (r *Roster) validateQuorum() (errs []error) {
	custodians := r.WithRole(RoleCustodian)
	bodies := map[string]string{}
	for _, c := range custodians {
		if other, taken := bodies[c.Body]; taken { // two pieces in one hand
			errs = append(errs, fmt.Errorf("custodians %q and %q are both of body %q", other, c.Name, c.Body))
		}
		bodies[c.Body] = c.Name
	}
	// 2q > n: any two quorums share a custodian, so no two of them can spend one budget twice.
	if n := len(custodians); r.Quorum < 1 || r.Quorum > n || 2*r.Quorum <= n {
		errs = append(errs, fmt.Errorf("quorum %d of %d custodians: want a majority", r.Quorum, n))
	}
	return errs
}

// Verify checks that s is a canonical artefact of this kind with exactly one signature, by the party that the body's
// "by" field names, and that this party has one of the allowed roles (none given: any) and still acts. Errors match
// ErrInvalid, ErrSignature, ErrRole or ErrAbsent.
func (r *Roster) Verify(s Signed, kind string, allowed ...Role) (by Party, err error) {
	by, err = r.VerifyPast(s, kind, allowed...)
	if err != nil {
		return Party{}, err
	}
	if by.Absent {
		return Party{}, fmt.Errorf("verifying %s %s: %w: %q", kind, s.Digest().Short(), ErrAbsent, by.Name)
	}
	return by, nil
}

// VerifyPast is Verify for what must outlive its author: manifests, keysets and receipts, which stay true when the
// person leaves. It accepts a party who is absent.
func (r *Roster) VerifyPast(s Signed, kind string, allowed ...Role) (by Party, err error) {
	if s.Kind != kind {
		return Party{}, fmt.Errorf("%w: artefact is a %q, want a %q", ErrInvalid, s.Kind, kind)
	}
	// The whole body is held to the canonical form here: otherwise "by" and "BY" could name two people.
	var fields map[string]json.RawMessage
	if err := canon.Unmarshal(s.Body, &fields); err != nil {
		return Party{}, fmt.Errorf("verifying %s: %w: %w", kind, ErrInvalid, err)
	}
	var name string
	if err := json.Unmarshal(fields["by"], &name); err != nil || name == "" {
		return Party{}, fmt.Errorf("verifying %s %s: %w: it does not say who signed it", kind, s.Digest().Short(), ErrInvalid)
	}
	return r.verifyBy(s, name, allowed)
}

// Signer is Verify for artefacts whose body cannot name who signs it, because others rebuild it: a plan belongs to
// whichever analyst signed it. The name comes from the one signature.
func (r *Roster) Signer(s Signed, kind string, allowed ...Role) (Party, error) {
	if s.Kind != kind || len(s.Sigs) != 1 {
		return Party{}, fmt.Errorf("verifying %s: %w: a %q with %d signatures, want a %q with one", kind, ErrInvalid, s.Kind, len(s.Sigs), kind)
	}
	by, err := r.verifyBy(s, s.Sigs[0].By, allowed)
	if err != nil {
		return Party{}, err
	}
	if by.Absent {
		return Party{}, fmt.Errorf("verifying %s %s: %w: %q", kind, s.Digest().Short(), ErrAbsent, by.Name)
	}
	return by, nil
}

// verifyBy checks the one signature of a parsed artefact. The signature comes before the role: a role is only worth
// reporting for a person who really signed.
func (r *Roster) verifyBy(s Signed, name string, allowed []Role) (Party, error) {
	fail := func(rule Rule, format string, a ...any) (Party, error) {
		return Party{}, fmt.Errorf("verifying %s %s: %w: %s", s.Kind, s.Digest().Short(), rule, fmt.Sprintf(format, a...))
	}
	if len(s.Sigs) != 1 {
		return fail(ErrSignature, "it carries %d signatures, want %q's alone", len(s.Sigs), name)
	}
	party, ok := r.Find(name)
	if !ok {
		return fail(ErrSignature, "%q is not in the roster", name)
	}
	if s.Verify(name, party.Key()) != nil {
		return fail(ErrSignature, "not by %q", name)
	}
	if len(allowed) > 0 && !slices.Contains(allowed, party.Role) {
		return fail(ErrRole, "%q is %s, want %s", name, party.Role, listRoles(allowed))
	}
	return party, nil
}

func listRoles(rs []Role) string {
	text := ""
	for i, r := range rs {
		if i > 0 {
			text += " or "
		}
		text += string(r)
	}
	return text
}
