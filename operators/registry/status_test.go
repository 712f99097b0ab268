package registry_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
)

func TestStatusSaysWhatIsNext(t *testing.T) {
	tests := []struct {
		name  string
		stage int
		do    func(*testing.T, *lab, stage)
		state registry.State
		next  []registry.Step
	}{
		{"applied", applied, nil, registry.Applied, []registry.Step{
			{Rule: operators.ErrNoConsent, Do: `consent to the use of dataset "rides" for "transit"`, Who: []string{"li"}},
			{Rule: operators.ErrNoConsent, Do: `consent to the use of dataset "water" for "water"`, Who: []string{"sun"}}}},
		{"owner unknown", applied, func(_ *testing.T, l *lab, _ stage) { delete(l.owners, "rides") }, registry.Applied, []registry.Step{
			{Rule: operators.ErrUnknown, Do: `register the keyset of dataset "rides", whose owner is not known`, Who: []string{"sun", "li"}},
			{Rule: operators.ErrNoConsent, Do: `consent to the use of dataset "water" for "water"`, Who: []string{"sun"}}}},
		{"consented", consented, nil, registry.Consented, []registry.Step{
			{Rule: operators.ErrNotApproved, Do: "approve the scenario: 0 of 2 approvals are there", Who: []string{"han", "ma", "lin"}}}},
		{"one approval", consented, func(t *testing.T, l *lab, s stage) {
			l.must(t, "approve")(l.Approve(t.Context(), who("ma"), s.scenario, ""))
		}, registry.Consented, []registry.Step{
			{Rule: operators.ErrNotApproved, Do: "approve the scenario: 1 of 2 approvals are there", Who: []string{"han", "lin"}}}},
		{"approved", approved, nil, registry.Approved, nil},
		{"refused", applied, func(t *testing.T, l *lab, s stage) {
			l.must(t, "refuse")(l.Refuse(t.Context(), who("ma"), s.scenario, "no need shown"))
		}, registry.Refused, []registry.Step{{Rule: operators.ErrUnknown, Do: "apply anew: this application is over", Who: []string{"wang"}}}},
		{"revoked", approved, func(t *testing.T, l *lab, s stage) {
			l.must(t, "revoke")(l.Revoke(t.Context(), who("ma"), s.scenario, "breach"))
		}, registry.Revoked, []registry.Step{{Rule: operators.ErrUnknown, Do: "apply anew: this application is over", Who: []string{"wang"}}}},
		{"expired", approved, func(_ *testing.T, l *lab, _ stage) { l.now = l.now.AddDate(1, 0, 0) }, registry.Expired,
			[]registry.Step{{Rule: operators.ErrUnknown, Do: "apply anew: this application is over", Who: []string{"wang"}}}},
		{"licence ended", approved, func(t *testing.T, l *lab, s stage) {
			l.must(t, "revoke")(l.Revoke(t.Context(), who("ma"), s.license, "breach"))
		}, registry.Blocked, []registry.Step{{Rule: operators.ErrUnlicensed, Who: []string{"han", "ma", "lin"},
			Do: `license operator "harbour": licence of operator "harbour" was revoked at 2026-03-02T12:06:00Z`}}},
		{"an approver has left", approved, func(_ *testing.T, l *lab, _ stage) { l.leave("ma") }, registry.Consented,
			[]registry.Step{{Rule: operators.ErrNotApproved, Do: "approve the scenario: 1 of 2 approvals are there", Who: []string{"lin"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, s := at(t, tt.stage)
			if tt.do != nil {
				tt.do(t, l, s)
			}
			st, err := l.Status(t.Context(), s.scenario, l.now)
			if err != nil {
				t.Fatal(err)
			}
			if st.State != tt.state {
				t.Errorf("state %q, want %q", st.State, tt.state)
			}
			if diff := cmp.Diff(tt.next, st.Next); diff != "" {
				t.Errorf("next (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStatusUnknown(t *testing.T) {
	l, _ := at(t, licensed)
	if _, err := l.Status(t.Context(), operators.Digest{1}, l.now); !errors.Is(err, operators.ErrUnknown) {
		t.Errorf("Status: %v, want ErrUnknown", err)
	}
}

func TestTimeline(t *testing.T) {
	l, s := at(t, consented)
	ctx := t.Context()
	l.must(t, "approve")(l.Approve(ctx, who("han"), s.scenario, "useful"))
	l.must(t, "suspend")(l.Suspend(ctx, who("ma"), s.license, "drill"))
	l.must(t, "revoke")(l.Revoke(ctx, who("li"), s.rides, "mind changed"))
	// Statements that the registry would refuse may still be on record: another one may have kept them.
	for _, v := range []operators.Decision{
		{Subject: s.scenario, Verdict: operators.Approve, Reason: "me too", By: "mole", Made: canon.At(l.now)},
		{Subject: s.rides, Verdict: operators.Revoke, Reason: "not mine", By: "sun", Made: canon.At(l.now.Add(1e9))},
		{Subject: s.scenario, Verdict: operators.Approve, Reason: "", By: "lin", Made: canon.At(l.now.AddDate(1, 0, 0))},
	} {
		k := who(v.By)
		body := canon.MustMarshal(v)
		sig, err := k.Sign(operators.KindDecision, body)
		if err != nil {
			t.Fatal(err)
		}
		l.store.all = append(l.store.all, operators.Signed{Kind: operators.KindDecision, Body: body, Sigs: []canon.Signature{sig}})
	}
	st, err := l.Status(ctx, s.scenario, l.now)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range st.Timeline {
		mark := "+"
		if !e.Counts {
			mark = "-"
		}
		got = append(got, mark+" "+e.By+" "+e.What+": "+e.Note)
	}
	last := got[len(got)-1] // names a digest
	want := []string{
		`+ wang applied for scenario "ferry demand": `,
		`- li consented to the use of dataset "rides": consent for dataset "rides" was revoked by "li" at 2026-03-02T12:06:00Z`,
		`+ sun consented to the use of dataset "water": `,
		`+ han approved the scenario: `,
		`+ ma suspended the licence of operator "harbour": `,
		`+ li revoked the consent for dataset "rides": `,
		`- mole approved the scenario: approval of scenario "ferry demand" is by "mole" of the operator itself`,
		`- sun revoked the consent for dataset "rides": "sun" of "water" cannot decide this`,
		last,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
	if e := st.Timeline[len(st.Timeline)-1]; e.Counts || e.Note == "" || e.What != "a statement was set aside" {
		t.Errorf("statement from the future shown as %+v", e)
	}
}

// People act within one second, as a script does.
func TestTimelineWithinOneSecond(t *testing.T) {
	l, s := at(t, licensed)
	ctx := t.Context()
	must := func(d operators.Digest, err error) operators.Digest {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	s.scenario = must(l.Apply(ctx, who("wang"), l.scenario()))
	s.rides = must(l.Consent(ctx, who("li"), consent(s.scenario, use("rides", "fare"))))
	s.water = must(l.Consent(ctx, who("sun"), consent(s.scenario, use("water", "litres"))))
	s.han = must(l.Approve(ctx, who("han"), s.scenario, "useful"))
	s.ma = must(l.Approve(ctx, who("ma"), s.scenario, "useful"))
	st, err := l.Status(ctx, s.scenario, l.now)
	if err != nil {
		t.Fatal(err)
	}
	place := map[operators.Digest]int{}
	for i, e := range st.Timeline {
		place[e.Statement] = i + 1
	}
	for _, pair := range [][2]operators.Digest{{s.scenario, s.rides}, {s.scenario, s.water}, {s.rides, s.han}, {s.water, s.han}, {s.rides, s.ma}, {s.water, s.ma}} {
		if first, then := place[pair[0]], place[pair[1]]; first == 0 || first >= then {
			t.Errorf("%s is told at place %d, %s, which builds on it, at %d", pair[0].Short(), first, pair[1].Short(), then)
		}
	}
}
