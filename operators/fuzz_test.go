package operators_test

import (
	"bytes"
	"testing"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// FuzzStatement: whatever the strict parsers accept encodes to the same bytes, validates without a panic, and filed by
// anybody leaves Authorize standing.
func FuzzStatement(f *testing.F) {
	seeds := 0
	for _, s := range told().statements().All {
		f.Add(s.Kind, s.Body)
		seeds++
	}
	g, err := told().authorize()
	if seeds == 0 || err != nil {
		f.Fatalf("%d seeds, %v", seeds, err)
	}
	f.Add(operators.KindGrant, canon.MustMarshal(g))
	f.Add(operators.KindRoster, canon.MustMarshal(roster("ma")))
	f.Add(operators.KindDecision, []byte(`{"by":"han","made":"9999-12-31T23:59:59Z","reason":"","subject":"sha256:00","verdict":"revoke"}`))
	st := told()
	good, request := st.statements(), st.request()
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		s := operators.Signed{Kind: kind, Body: body}
		var v any
		switch kind {
		case operators.KindLicense:
			v = new(operators.License)
		case operators.KindScenario:
			v = new(operators.Scenario)
		case operators.KindConsent:
			v = new(operators.Consent)
		case operators.KindDecision:
			v = new(operators.Decision)
		case operators.KindGrant:
			v = new(operators.Grant)
		case operators.KindRoster:
			v = new(operators.Roster)
		default:
			return
		}
		if s.Open(kind, v) == nil {
			if again := canon.MustMarshal(v); !bytes.Equal(again, body) {
				t.Fatalf("accepted %q, which encodes as %q", body, again)
			}
			if v, ok := v.(interface{ Validate() error }); ok {
				_ = v.Validate()
			}
		}
		if kind == operators.KindRoster {
			s.Sigs = []canon.Signature{canon.Sign(kind, body, operators.Root, rootKey)}
			if r, err := operators.OpenRoster(s, rootPub); err == nil && !bytes.Equal(canon.MustMarshal(r), body) {
				t.Fatalf("opened a roster that encodes differently: %q", body)
			}
			return
		}
		with := good
		for _, by := range []string{"han", "wang", "sun"} {
			with.All = append(with.All[:len(good.All):len(good.All)], operators.Signed{Kind: kind, Body: body, Sigs: []canon.Signature{canon.Sign(kind, body, by, keys[by])}})
			_, _ = operators.Authorize(with, request)
		}
	})
}
