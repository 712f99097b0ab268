package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// What a caller sees beyond its role: officials, auditors and custodians see all, an analyst what is of the own operator, a steward
// also who uses the own agency's data. What one may not see does not exist for one.

// caller is the party of the roster that calls.
func (s *Server) caller(ctx context.Context) (operators.Party, error) {
	p, ok := rpc.PeerFrom(ctx)
	if !ok {
		return operators.Party{}, errors.New("a handler was reached without a caller")
	}
	roster, err := s.roster(ctx)
	if err != nil {
		return operators.Party{}, err
	}
	party, _ := roster.Find(p.Name) // admit found it
	return party, nil
}

// own parses an artefact and insists that the caller, and nobody else, has signed it: nobody hands in another's
// signatures. Whether the signature verifies is for the packages that record it.
func (s *Server) own(ctx context.Context, data []byte) (enclave.Signed, error) {
	var signed enclave.Signed
	if err := canon.Unmarshal(data, &signed); err != nil {
		return signed, invalid("the artefact cannot be read: %v", err)
	}
	p, err := s.caller(ctx)
	if err != nil {
		return signed, err
	}
	if len(signed.Sigs) != 1 || signed.Sigs[0].By != p.Name {
		return signed, fmt.Errorf("%w: this must carry the signature of %q, who hands it in, and no other", operators.ErrSignature, p.Name)
	}
	return signed, nil
}

// sees tells which jobs a caller may see.
func (s *Server) sees(ctx context.Context) (func(sandbox.Job) bool, operators.Party, error) {
	p, err := s.caller(ctx)
	if err != nil {
		return nil, p, err
	}
	switch p.Role {
	case operators.RoleOfficial, operators.RoleAuditor, operators.RoleCustodian:
		return func(sandbox.Job) bool { return true }, p, nil
	case operators.RoleAnalyst:
		return func(j sandbox.Job) bool { return j.Operator == p.Body }, p, nil
	case operators.RoleSteward:
		uses, err := s.usesOf(ctx, p.Body)
		return func(j sandbox.Job) bool { return uses[j.Scenario] }, p, err
	}
	return func(sandbox.Job) bool { return false }, p, nil
}

// usesOf are the scenarios that ask for data of an agency.
func (s *Server) usesOf(ctx context.Context, body string) (map[enclave.Digest]bool, error) {
	st, err := s.cfg.Lab.Statements(ctx)
	if err != nil {
		return nil, err
	}
	uses := map[enclave.Digest]bool{}
	for _, signed := range st.All {
		var sc operators.Scenario
		if signed.Kind == operators.KindScenario && signed.Open(operators.KindScenario, &sc) == nil {
			uses[signed.Digest()] = slices.ContainsFunc(sc.Datasets, func(d operators.DatasetUse) bool { return st.Owners[d.Dataset] == body })
		}
	}
	return uses, nil
}

// job finds a job that the caller may see.
func (s *Server) job(ctx context.Context, id string) (sandbox.Job, error) {
	parsed, err := sandbox.ParseJobID(id)
	if err != nil {
		return sandbox.Job{}, invalid("%v", err)
	}
	sees, _, err := s.sees(ctx)
	if err != nil {
		return sandbox.Job{}, err
	}
	job, err := s.cfg.Lab.Job(ctx, parsed)
	if err != nil || sees(job) {
		return job, err
	}
	return sandbox.Job{}, fmt.Errorf("job %q: %w", id, sandbox.ErrNotFound)
}

// concerning is what an operator may see of the record: its licences, its scenarios, and what was said about them.
func concerning(body string, all []enclave.Signed) []enclave.Signed {
	mine := map[enclave.Digest]bool{}
	pick := func(s enclave.Signed) bool {
		switch s.Kind {
		case operators.KindLicense:
			var l operators.License
			return s.Open(s.Kind, &l) == nil && l.Operator == body
		case operators.KindScenario:
			var sc operators.Scenario
			return s.Open(s.Kind, &sc) == nil && sc.Operator == body
		case operators.KindConsent:
			var c operators.Consent
			return s.Open(s.Kind, &c) == nil && mine[c.Scenario]
		case operators.KindDecision:
			var d operators.Decision
			return s.Open(s.Kind, &d) == nil && mine[d.Subject]
		}
		return false
	}
	// Decisions may be about consents, consents about scenarios: the record is in order of arrival, but need not be.
	for found := -1; found != len(mine); {
		found = len(mine)
		for _, s := range all {
			if pick(s) {
				mine[s.Digest()] = true
			}
		}
	}
	var out []enclave.Signed
	for _, s := range all {
		if mine[s.Digest()] {
			out = append(out, s)
		}
	}
	return out
}
