package registry

import (
	"context"
	"fmt"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// Issue lets an official license an operator. By and Made are filled in. A renewal is a further licence: issue it while
// the old one runs, with a NotBefore no later than the old NotAfter.
func (r *Registry) Issue(ctx context.Context, who Signer, l operators.License) (operators.Digest, error) {
	l.By, l.Made = who.Name(), canon.At(r.cfg.Clock())
	return r.sign(ctx, who, operators.KindLicense, l)
}

// Apply lets an analyst apply for a scenario. By and Made are filled in.
func (r *Registry) Apply(ctx context.Context, who Signer, s operators.Scenario) (operators.Digest, error) {
	s.By, s.Made = who.Name(), canon.At(r.cfg.Clock())
	return r.sign(ctx, who, operators.KindScenario, s)
}

// Consent lets a data steward consent to a scenario's use of the agency's dataset. By and Made are filled in. A second
// consent while one is in force may only narrow it; to widen, revoke the first.
func (r *Registry) Consent(ctx context.Context, who Signer, c operators.Consent) (operators.Digest, error) {
	c.By, c.Made = who.Name(), canon.At(r.cfg.Clock())
	return r.sign(ctx, who, operators.KindConsent, c)
}

// Approve is one of the two officials' approvals that a scenario needs, once every owner has consented.
func (r *Registry) Approve(ctx context.Context, who Signer, scenario operators.Digest, reason string) (operators.Digest, error) {
	return r.decide(ctx, who, scenario, operators.Approve, reason)
}

// Refuse ends a scenario for good.
func (r *Registry) Refuse(ctx context.Context, who Signer, scenario operators.Digest, reason string) (operators.Digest, error) {
	return r.decide(ctx, who, scenario, operators.Refuse, reason)
}

// Suspend stops a licence (and with it the operator) or a scenario until it is resumed.
func (r *Registry) Suspend(ctx context.Context, who Signer, subject operators.Digest, reason string) (operators.Digest, error) {
	return r.decide(ctx, who, subject, operators.Suspend, reason)
}

// Resume lifts a suspension.
func (r *Registry) Resume(ctx context.Context, who Signer, subject operators.Digest, reason string) (operators.Digest, error) {
	return r.decide(ctx, who, subject, operators.Resume, reason)
}

// Revoke ends a licence, scenario or consent for good. A steward may revoke consents of the own agency.
func (r *Registry) Revoke(ctx context.Context, who Signer, subject operators.Digest, reason string) (operators.Digest, error) {
	return r.decide(ctx, who, subject, operators.Revoke, reason)
}

func (r *Registry) decide(ctx context.Context, who Signer, subject operators.Digest, v operators.Verdict, reason string) (operators.Digest, error) {
	return r.sign(ctx, who, operators.KindDecision, operators.Decision{
		Subject: subject, Verdict: v, Reason: reason, By: who.Name(), Made: canon.At(r.cfg.Clock()),
	})
}

// sign checks the statement first, because a signature under a statement that nobody keeps is still a signature: a
// person should never be led to sign what the rules refuse.
func (r *Registry) sign(ctx context.Context, who Signer, kind string, v any) (operators.Digest, error) {
	body, err := canon.Marshal(v)
	if err != nil {
		return operators.Digest{}, fmt.Errorf("writing %s: %w: %w", kind, operators.ErrInvalid, err)
	}
	d, _, err := r.open(ctx, r.cfg.Clock())
	if err != nil {
		return operators.Digest{}, err
	}
	s := operators.Signed{Kind: kind, Body: body}
	by, err := author(d, kind, who.Name())
	if err == nil {
		err = check(d, s, by)
	}
	if err != nil {
		return operators.Digest{}, fmt.Errorf("before %q signs a %s: %w", who.Name(), kind, err)
	}
	sig, err := who.Sign(kind, body)
	if err != nil {
		return operators.Digest{}, fmt.Errorf("signing %s as %q: %w", kind, who.Name(), err)
	}
	s.Sigs = []canon.Signature{sig}
	return r.Record(ctx, s)
}

// author is signer for somebody who has not signed yet.
func author(d *operators.Docket, kind, name string) (operators.Party, error) {
	p, ok := d.Roster.Find(name)
	if !ok {
		return p, operators.Deny(operators.Reason{Rule: operators.ErrUnknown, Subject: name,
			Text: fmt.Sprintf("%q is not in the lab's roster", name), Hint: "join the lab first"})
	}
	if p.Absent {
		return p, operators.Deny(operators.Reason{Rule: operators.ErrAbsent, Subject: name, Text: fmt.Sprintf("%q has left the lab", name)})
	}
	for _, role := range kinds[kind] {
		if p.Role == role {
			return p, nil
		}
	}
	return p, operators.Deny(operators.Reason{Rule: operators.ErrRole, Subject: name,
		Text: fmt.Sprintf("%q is %s and may not sign a %s", name, p.Role, kind), Hint: fmt.Sprintf("this is for %v", kinds[kind])})
}
