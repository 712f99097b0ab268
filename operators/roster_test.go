package operators_test

import (
	"errors"
	"strings"
	"testing"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

func TestOpenRoster(t *testing.T) {
	r, err := operators.OpenRoster(signRoster(roster()), rootPub)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := r.Find("han"); !ok || p.Body != "bureau" {
		t.Errorf("Find(han) = %+v, %v", p, ok)
	}
	if n := len(r.WithRole(operators.RoleCustodian)); n != 3 {
		t.Errorf("%d custodians, want 3", n)
	}
}

func TestOpenRosterRefuses(t *testing.T) {
	good := roster()
	twice := signRoster(good)
	twice.Sigs = append(twice.Sigs, twice.Sigs[0])
	unsigned := signRoster(good)
	unsigned.Sigs = nil
	for name, s := range map[string]operators.Signed{
		"other key":         sign(operators.KindRoster, good, operators.Root, keys["han"]),
		"other kind":        sign(operators.KindLicense, good, operators.Root, rootKey),
		"signed twice":      twice,
		"unsigned":          unsigned,
		"not a roster":      sign(operators.KindRoster, struct{}{}, operators.Root, rootKey),
		"not canonical":     {Kind: operators.KindRoster, Body: []byte("{ }"), Sigs: []canon.Signature{canon.Sign(operators.KindRoster, []byte("{ }"), operators.Root, rootKey)}},
		"breaks its rules":  signRoster(func() operators.Roster { r := roster(); r.Quorum = 1; return r }()),
		"serial of nothing": signRoster(func() operators.Roster { r := roster(); r.Serial = 0; return r }()),
	} {
		if _, err := operators.OpenRoster(s, rootPub); !errors.Is(err, operators.ErrRoster) {
			t.Errorf("%s: %v, want ErrRoster", name, err)
		}
		if _, err := operators.Authorize(operators.Statements{Roster: s, RootKey: rootPub}, operators.Request{}); !errors.Is(err, operators.ErrRoster) {
			t.Errorf("%s: Authorize: %v, want ErrRoster", name, err)
		}
	}
	if _, err := operators.OpenRoster(signRoster(good), nil); !errors.Is(err, canon.ErrSignature) || !errors.Is(err, operators.ErrRoster) {
		t.Errorf("no root key: %v, want ErrSignature", err)
	}
}

func TestRosterValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(*operators.Roster)
		want string
	}{
		"no lab":             {func(r *operators.Roster) { r.Lab = "" }, "lab has no name"},
		"no name":            {func(r *operators.Roster) { r.Parties[0].Name = "" }, `party 0 is named ""`},
		"named root":         {func(r *operators.Roster) { r.Parties[0].Name = operators.Root }, `party 0 is named "root"`},
		"name twice":         {func(r *operators.Roster) { r.Parties[0].Name = "ma" }, `"ma" is given twice`},
		"unknown role":       {func(r *operators.Roster) { r.Parties[0].Role = "king" }, `unknown role "king"`},
		"no body":            {func(r *operators.Roster) { r.Parties[0].Body = "" }, "name its body"},
		"short key":          {func(r *operators.Roster) { r.Parties[0].Verify = r.Parties[0].Verify[1:] }, "31 bytes"},
		"one key, two hats":  {func(r *operators.Roster) { r.Parties[0].Verify = r.Parties[1].Verify }, `"han" and "ma" share`},
		"HPKE key size":      {func(r *operators.Roster) { r.Parties[0].HPKE = make([]byte, 32) }, "HPKE key of 32 bytes"},
		"minority quorum":    {func(r *operators.Roster) { r.Quorum = 1 }, "want a majority"},
		"quorum too large":   {func(r *operators.Roster) { r.Quorum = 4 }, "want a majority"},
		"quorum of absents":  {func(r *operators.Roster) { r.Parties[10].Absent, r.Parties[11].Absent = true, true }, "quorum 2 of 1"},
		"no custodians":      {func(r *operators.Roster) { r.Parties, r.Quorum = r.Parties[:10], 0 }, "quorum 0 of 0"},
		"one body, two keys": {func(r *operators.Roster) { r.Parties[11].Body = "notary" }, `both of body "notary"`},
	} {
		r := roster()
		tt.do(&r)
		err := r.Validate()
		if !errors.Is(err, operators.ErrRoster) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	r := roster()
	r.Lab, r.Quorum = "", 1
	if err := r.Validate(); !strings.Contains(err.Error(), "lab has no name") || !strings.Contains(err.Error(), "majority") {
		t.Errorf("not all faults at once: %v", err)
	}
}

func TestVerify(t *testing.T) {
	r := roster("ma")
	lic := told().licenses[0]
	kind := operators.KindLicense
	good := sign(kind, lic, "han", keys["han"])
	with := func(do func(*operators.Signed)) operators.Signed {
		s := sign(kind, lic, "han", keys["han"])
		do(&s)
		return s
	}
	by := func(name string) operators.Signed {
		l := lic
		l.By = name
		return sign(kind, l, name, keys[name])
	}
	raw := func(body string) operators.Signed {
		return operators.Signed{Kind: kind, Body: []byte(body), Sigs: []canon.Signature{canon.Sign(kind, []byte(body), "han", keys["han"])}}
	}
	tests := []struct {
		name string
		s    operators.Signed
		want error
	}{
		{"good", good, nil},
		{"other kind", with(func(s *operators.Signed) { s.Kind = operators.KindConsent }), operators.ErrInvalid},
		{"no signature", with(func(s *operators.Signed) { s.Sigs = nil }), operators.ErrSignature},
		{"second signature", with(func(s *operators.Signed) { s.Sigs = append(s.Sigs, s.Sigs[0]) }), operators.ErrSignature},
		{"another's signature", with(func(s *operators.Signed) { s.Sigs[0] = canon.Sign(kind, s.Body, "wang", keys["wang"]) }), operators.ErrSignature},
		{"another's key under the name", sign(kind, lic, "han", keys["wang"]), operators.ErrSignature},
		{"not in the roster", by("stranger"), operators.ErrSignature},
		{"wrong role", by("wang"), operators.ErrRole},
		{"has left", by("ma"), operators.ErrAbsent},
		{"no by", raw(`{"a":1}`), operators.ErrInvalid},
		{"by is a number", raw(`{"by":1}`), operators.ErrInvalid},
		{"by twice", raw(`{"by":"han","by":"han"}`), operators.ErrInvalid},
		{"by hidden deeper", raw(`{"a":{"by":"han"}}`), operators.ErrInvalid},
		{"BY for by", raw(`{"BY":"han"}`), operators.ErrInvalid},
		{"not canonical", raw(`{"by": "han"}`), operators.ErrInvalid},
		{"not JSON", raw(`by han`), operators.ErrInvalid},
	}
	for _, tt := range tests {
		p, err := r.Verify(tt.s, kind, operators.RoleOfficial)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if errors.Is(err, canon.ErrSignature) != (tt.want == operators.ErrSignature) {
			t.Errorf("%s: %v matches only one of the two signature errors", tt.name, err)
		}
		if err != nil && p.Name != "" {
			t.Errorf("%s: refused, yet names %q", tt.name, p.Name)
		}
	}
	if p, err := r.VerifyPast(by("ma"), kind, operators.RoleOfficial); err != nil || p.Name != "ma" || !p.Absent {
		t.Errorf("VerifyPast of a party who has left: %+v, %v", p, err)
	}
	if _, err := r.Verify(by("wang"), kind); err != nil {
		t.Errorf("any role: %v", err)
	}
	if _, err := r.Verify(by("wang"), kind, operators.RoleOfficial, operators.RoleAnalyst); err != nil {
		t.Errorf("two roles: %v", err)
	}
	damaged := with(func(s *operators.Signed) { s.Body[len(s.Body)-3] ^= 1 })
	if _, err := r.Verify(damaged, kind); err == nil {
		t.Error("a damaged body verifies")
	}
}
