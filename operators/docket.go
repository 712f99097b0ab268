package operators

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Skew is how far ahead of the reader's clock a statement may be dated and still count.
const Skew = 5 * time.Minute

// Statements is what Authorize reads: everything on record, in any order. Other kinds of artefact, repetitions and
// forgeries do no harm. Leaving out a statement that forbids something does: take them from the log, all of them.
type Statements struct {
	Roster  Signed
	RootKey ed25519.PublicKey // the lab's root key, pinned when the reader joined
	Owners  map[string]string // dataset → body of the agency that owns it, from the keysets
	All     []Signed          // licences, scenarios, consents and decisions
}

// Filed is a statement whose signature verified, with its name and its signer.
type Filed[T any] struct {
	Digest Digest
	Body   T
	By     Party
}

// SetAside is a statement that counts for nothing and why. Operator or About say what it claims to concern, as far as
// it could be read; neither is verified.
type SetAside struct {
	Digest   Digest
	Kind     string
	Operator string // of a licence
	About    Digest // scenario itself, consent's scenario, decision's subject
	Err      error  // matches ErrSignature, ErrRole, ErrFuture or ErrInvalid
}

// Docket is the record as it stands at one instant: every genuine statement once, oldest first. Statements by people
// who have left are in it; each rule decides whether they count.
type Docket struct {
	Roster    *Roster
	Owners    map[string]string
	Now       time.Time
	Licenses  []Filed[License]
	Scenarios []Filed[Scenario]
	Consents  []Filed[Consent]
	Decisions []Filed[Decision]
	SetAside  []SetAside // by digest

	byDigest map[Digest]*Filed[Scenario]
}

// OpenDocket verifies every statement against the roster. It fails only for a roster that is not the root key's
// (ErrRoster): a bad statement is set aside, so nobody can stop the lab by adding one.
func OpenDocket(s Statements, now time.Time) (*Docket, error) {
	roster, err := OpenRoster(s.Roster, s.RootKey)
	if err != nil {
		return nil, err
	}
	d := &Docket{Roster: roster, Owners: s.Owners, Now: now, byDigest: map[Digest]*Filed[Scenario]{}}
	seen := map[Digest]bool{} // genuine ones; a forged copy must not displace the original, so forgeries are not marked
	for _, st := range s.All {
		if seen[st.Digest()] {
			continue
		}
		aside, ok := d.file(st)
		if ok {
			seen[st.Digest()] = true
		} else if aside != nil {
			d.SetAside = append(d.SetAside, *aside)
		}
	}
	d.sort(seen)
	for i := range d.Scenarios {
		d.byDigest[d.Scenarios[i].Digest] = &d.Scenarios[i]
	}
	return d, nil
}

// file puts a statement where it belongs. Neither result is set for an artefact that is no statement.
func (d *Docket) file(s Signed) (*SetAside, bool) {
	switch s.Kind {
	case KindLicense:
		return admit(d, s, &d.Licenses, func(l *License) claim {
			return claim{by: l.By, made: l.Made, operator: l.Operator}
		}, RoleOfficial)
	case KindScenario:
		return admit(d, s, &d.Scenarios, func(a *Scenario) claim {
			return claim{by: a.By, made: a.Made, operator: a.Operator, about: s.Digest()}
		}, RoleAnalyst)
	case KindConsent:
		return admit(d, s, &d.Consents, func(c *Consent) claim {
			return claim{by: c.By, made: c.Made, about: c.Scenario}
		}, RoleSteward)
	case KindDecision: // any role: whose word counts depends on the verdict and the subject
		return admit(d, s, &d.Decisions, func(v *Decision) claim {
			return claim{by: v.By, made: v.Made, about: v.Subject}
		})
	default:
		return nil, false
	}
}

// claim is what a statement says about itself before anything is verified.
type claim struct {
	by       string
	made     Time
	operator string
	about    Digest
}

func admit[T any](d *Docket, s Signed, to *[]Filed[T], read func(*T) claim, allowed ...Role) (*SetAside, bool) {
	aside := &SetAside{Digest: s.Digest(), Kind: s.Kind}
	var body T
	if err := s.Open(s.Kind, &body); err != nil {
		aside.Err = fmt.Errorf("%w: %w", ErrInvalid, err)
		return aside, false
	}
	c := read(&body)
	aside.Operator, aside.About = c.operator, c.about
	by, err := d.Roster.verifyBy(s, c.by, allowed)
	if err != nil {
		aside.Err = err
		return aside, false
	}
	if c.made.After(d.Now.Add(Skew)) {
		aside.Err = fmt.Errorf("%s %s: %w: made at %s", s.Kind, s.Digest().Short(), ErrFuture, text(c.made))
		return aside, false
	}
	*to = append(*to, Filed[T]{Digest: s.Digest(), Body: body, By: by})
	return nil, true
}

// sort makes the docket independent of the order and number of copies in which the statements came.
func (d *Docket) sort(genuine map[Digest]bool) {
	slices.SortFunc(d.Licenses, func(a, b Filed[License]) int { return oldest(a.Body.Made, b.Body.Made, a.Digest, b.Digest) })
	slices.SortFunc(d.Scenarios, func(a, b Filed[Scenario]) int { return oldest(a.Body.Made, b.Body.Made, a.Digest, b.Digest) })
	slices.SortFunc(d.Consents, func(a, b Filed[Consent]) int { return oldest(a.Body.Made, b.Body.Made, a.Digest, b.Digest) })
	slices.SortFunc(d.Decisions, func(a, b Filed[Decision]) int { return oldest(a.Body.Made, b.Body.Made, a.Digest, b.Digest) })
	d.SetAside = slices.DeleteFunc(d.SetAside, func(s SetAside) bool { return genuine[s.Digest] })
	// Of several copies the one with the genuine signature says why; a forged one would hide it.
	slices.SortFunc(d.SetAside, func(a, b SetAside) int {
		return cmp.Or(slices.Compare(a.Digest[:], b.Digest[:]), forged(a)-forged(b), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Err.Error(), b.Err.Error()))
	})
	d.SetAside = slices.CompactFunc(d.SetAside, func(a, b SetAside) bool { return a.Digest == b.Digest })
}

func forged(s SetAside) int {
	if ruleOf(s.Err) == ErrSignature {
		return 1
	}
	return 0
}

func oldest(a, b Time, x, y Digest) int {
	return cmp.Or(a.Compare(b.Time), slices.Compare(x[:], y[:]))
}

// Scenario finds an application by its digest.
func (d *Docket) Scenario(digest Digest) (Filed[Scenario], bool) {
	if s := d.byDigest[digest]; s != nil {
		return *s, true
	}
	return Filed[Scenario]{}, false
}

// setAside turns statements that were set aside, and that claim to concern this operator or scenario, into reasons:
// an approval that is missing because its signature is bad should not look as if it had never been given.
func (d *Docket) setAside(operator string, scenario Digest) (out []Reason) {
	for _, s := range d.SetAside {
		if s.About != scenario && (s.Kind != KindLicense || s.Operator != operator) {
			continue
		}
		out = append(out, Reason{Rule: ruleOf(s.Err), Subject: s.Digest.String(), Text: "set aside: " + s.Err.Error()})
	}
	return out
}

func ruleOf(err error) Rule {
	var r Rule
	if errors.As(err, &r) {
		return r
	}
	return ErrInvalid
}
