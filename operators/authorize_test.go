package operators_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

func TestAuthorize(t *testing.T) {
	st := told()
	all := st.statements().All
	got := mustGrant(t, st)
	sorted := func(i, j int) []operators.Digest {
		ds := []operators.Digest{all[i].Digest(), all[j].Digest()}
		slices.SortFunc(ds, func(a, b operators.Digest) int { return slices.Compare(a[:], b[:]) })
		return ds
	}
	want := &operators.Grant{
		Operator: "harbour", License: all[0].Digest(), Scenario: all[1].Digest(), Consents: sorted(2, 3), Approvals: sorted(4, 5),
		Datasets: []operators.DatasetUse{
			{Dataset: "rides", Columns: []operators.ColumnUse{ // the owner left "filter" on line out
				uses("fare", operators.UseAggregate), uses("line", operators.UseGroup)}},
			{Dataset: "water", Columns: []operators.ColumnUse{
				uses("litres", operators.UseAggregate), uses("town", operators.UseGroup)}},
		},
		Limits:       []operators.Limit{{Dataset: "rides", EpsilonMicro: 1_000_000}, {Dataset: "water", EpsilonMicro: 2_000_000}},
		EpsilonMicro: 2_000_000, JobEpsilonMicro: 500_000, MinCohort: 10, MarginMilli: 2000,
		Workers: st.scenario.Workers, NotAfter: st.scenario.NotAfter,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("grant (-want +got):\n%s", diff)
	}
	var back operators.Grant
	if err := canon.Unmarshal(canon.MustMarshal(got), &back); err != nil {
		t.Errorf("grant does not survive its encoding: %v", err)
	}
}

// Each row breaks the story in one way; the denial must name that rule and no other.
func TestAuthorizeDenies(t *testing.T) {
	decide := func(about string, v operators.Verdict, by string, made int) func(*story) {
		return func(st *story) { st.decisions = append(st.decisions, decision{about, v, by, made}) }
	}
	type rs = []operators.Rule
	tests := []struct {
		name string
		do   func(*story)
		want []operators.Rule
	}{
		// Licence.
		{"no licence", func(s *story) { s.licenses = nil }, rs{operators.ErrUnlicensed}},
		{"another operator's licence", func(s *story) { s.licenses[0].Operator = "rival" }, rs{operators.ErrUnlicensed}},
		{"licence expired", func(s *story) { s.licenses[0].NotAfter = minute(now) }, rs{operators.ErrExpired}},
		{"licence not begun", func(s *story) { s.licenses[0].NotBefore = minute(now + 1) }, rs{operators.ErrUnlicensed}},
		{"licence too long", func(s *story) { s.licenses[0].NotAfter = canon.At(noon.AddDate(5, 0, 1)) }, rs{operators.ErrInvalid}},
		{"licence upside down", func(s *story) { s.licenses[0].NotBefore, s.licenses[0].NotAfter = minute(9), minute(8) }, rs{operators.ErrExpired, operators.ErrInvalid}},
		{"no security review", func(s *story) { s.licenses[0].SecurityReview = " " }, rs{operators.ErrInvalid}},
		{"no agreement", func(s *story) { s.licenses[0].Agreement = "" }, rs{operators.ErrInvalid}},
		{"licence by an analyst", func(s *story) { s.licenses[0].By = "wang" }, rs{operators.ErrRole, operators.ErrUnlicensed}},
		{"licence by the operator's own official", func(s *story) { s.licenses[0].By = "mole" }, rs{operators.ErrSelfApproval}},
		{"licence by a stranger", func(s *story) { s.licenses[0].By = "stranger" }, rs{operators.ErrSignature, operators.ErrUnlicensed}},
		{"licence forged", func(s *story) { s.forged = []any{&s.licenses[0]} }, rs{operators.ErrSignature, operators.ErrUnlicensed}},
		{"licence from the future", func(s *story) { s.licenses[0].Made = minute(now + 6) }, rs{operators.ErrFuture, operators.ErrUnlicensed}},
		{"licence revoked", decide("license 0", operators.Revoke, "lin", 8), rs{operators.ErrRevoked}},
		{"licence suspended", decide("license 0", operators.Suspend, "lin", 8), rs{operators.ErrSuspended}},
		{"other licence of the operator suspended", func(s *story) {
			s.licenses = append(s.licenses, s.licenses[0])
			s.licenses[1].Agreement = "NDA-8"
			decide("license 1", operators.Suspend, "lin", 8)(s)
		}, rs{operators.ErrSuspended}},
		{"older licence revoked ends the newer", func(s *story) {
			s.licenses = append(s.licenses, s.licenses[0])
			s.licenses[1].Made = minute(7)
			decide("license 0", operators.Revoke, "lin", 8)(s)
		}, rs{operators.ErrRevoked}},

		// Scenario.
		{"scenario expired", func(s *story) { s.scenario.NotAfter = minute(now) }, rs{operators.ErrExpired}},
		{"scenario forged", func(s *story) { s.forged = []any{&s.scenario} }, rs{operators.ErrSignature, operators.ErrUnknown}},
		{"scenario by another operator's analyst", func(s *story) { s.scenario.By = "qian" }, rs{operators.ErrNotMember}},
		{"scenario of another operator", func(s *story) { s.scenario.Operator, s.scenario.By = "rival", "qian" }, rs{operators.ErrNotMember}},
		{"scenario by a steward", func(s *story) { s.scenario.By = "sun" }, rs{operators.ErrRole, operators.ErrUnknown}},
		{"small cohort", func(s *story) { s.scenario.MinCohort = 9 }, rs{operators.ErrInvalid}},
		{"negative margin", func(s *story) { s.scenario.MarginMilli = -1 }, rs{operators.ErrInvalid}},
		{"no purpose", func(s *story) { s.scenario.Purpose = "" }, rs{operators.ErrInvalid}},
		{"job budget above the whole", func(s *story) { s.scenario.JobEpsilonMicro = 2_000_001 }, rs{operators.ErrInvalid}},
		{"no budget", func(s *story) { s.scenario.EpsilonMicro, s.scenario.JobEpsilonMicro = 0, 0 }, rs{operators.ErrInvalid}},
		{"no workers", func(s *story) { s.scenario.Workers = []operators.Digest{} }, rs{operators.ErrInvalid}},
		{"workers unsorted", func(s *story) { slices.Reverse(s.scenario.Workers) }, rs{operators.ErrInvalid}},
		{"worker twice", func(s *story) { s.scenario.Workers[1] = s.scenario.Workers[0] }, rs{operators.ErrInvalid}},
		{"datasets unsorted", func(s *story) { slices.Reverse(s.scenario.Datasets) }, rs{operators.ErrInvalid}},
		{"scenario refused", decide("scenario", operators.Refuse, "lin", 8), rs{operators.ErrRefused}},
		{"scenario refused, then approved again", func(s *story) {
			decide("scenario", operators.Refuse, "lin", 8)(s)
			decide("scenario", operators.Approve, "han", 9)(s)
			decide("scenario", operators.Resume, "han", 10)(s)
		}, rs{operators.ErrRefused}},
		{"scenario revoked", decide("scenario", operators.Revoke, "han", 8), rs{operators.ErrRevoked}},
		{"scenario suspended", decide("scenario", operators.Suspend, "han", 8), rs{operators.ErrSuspended}},
		{"resumed in the same second", func(s *story) {
			decide("scenario", operators.Resume, "ma", 8)(s)
			decide("scenario", operators.Suspend, "han", 8)(s)
		}, rs{operators.ErrSuspended}},
		{"resumed by the operator's own official", func(s *story) {
			decide("scenario", operators.Suspend, "han", 8)(s)
			decide("scenario", operators.Resume, "mole", 9)(s)
		}, rs{operators.ErrSuspended}},
		{"suspended by an official who has left", func(s *story) {
			decide("scenario", operators.Suspend, "lin", 8)(s)
			s.absent = []string{"lin"}
		}, rs{operators.ErrSuspended}},

		// Consent.
		{"no consent for one dataset", func(s *story) { s.consents = s.consents[:1] }, rs{operators.ErrNoConsent}},
		{"consent forged", func(s *story) { s.forged = []any{&s.consents[0]} }, rs{operators.ErrNoConsent, operators.ErrSignature}},
		{"consent by another agency", func(s *story) { s.consents[0].By = "sun" }, rs{operators.ErrNoConsent, operators.ErrOwner}},
		{"consent by an official", func(s *story) { s.consents[0].By = "han" }, rs{operators.ErrNoConsent, operators.ErrRole}},
		{"consent by a steward who has left", func(s *story) { s.absent = []string{"li"} }, rs{operators.ErrAbsent, operators.ErrNoConsent}},
		{"consent to a column not asked", func(s *story) {
			s.consents[0].Use.Columns = append(s.consents[0].Use.Columns, uses("name", operators.UseGroup))
		}, rs{operators.ErrNoConsent, operators.ErrWideConsent}},
		{"consent to a use not asked", func(s *story) {
			s.consents[0].Use.Columns[0] = uses("fare", operators.UseAggregate, operators.UseGroup)
		}, rs{operators.ErrNoConsent, operators.ErrWideConsent}},
		{"consent without budget", func(s *story) { s.consents[0].EpsilonMicro = 0 }, rs{operators.ErrInvalid, operators.ErrNoConsent}},
		{"consent before the application", func(s *story) { s.consents[0].Made = minute(0) }, rs{operators.ErrNoConsent, operators.ErrStale}},
		{"consent for another scenario", func(s *story) { s.consents[0].Scenario = operators.Digest{9} }, rs{operators.ErrNoConsent}},
		{"consents with nothing in common", func(s *story) {
			c := s.consents[0]
			s.consents[0].Use.Columns = c.Use.Columns[:1]
			c.Use.Columns = c.Use.Columns[1:]
			s.consents = append(s.consents, c)
		}, rs{operators.ErrNoConsent}},
		{"consent revoked by the owner", decide("consent 0", operators.Revoke, "li", 8), rs{operators.ErrNoConsent, operators.ErrRevoked}},
		{"consent revoked by an official", decide("consent 0", operators.Revoke, "ma", 8), rs{operators.ErrNoConsent, operators.ErrRevoked}},
		{"consent suspended", decide("consent 0", operators.Suspend, "ma", 8), rs{operators.ErrNoConsent, operators.ErrSuspended}},
		{"narrow consent revoked does not revive the wide one", func(s *story) {
			c := s.consents[0]
			c.EpsilonMicro = 5
			s.consents = append(s.consents, c)
			decide("consent 2", operators.Revoke, "li", 8)(s)
		}, rs{operators.ErrNoConsent, operators.ErrRevoked}},
		{"owner unknown", func(s *story) { delete(s.owners, "rides") }, rs{operators.ErrOwner, operators.ErrUnknown}},

		// Approvals.
		{"one approval", func(s *story) { s.decisions = s.decisions[:1] }, rs{operators.ErrNotApproved}},
		{"the same official twice", func(s *story) { s.decisions[1].by = "han" }, rs{operators.ErrNotApproved}},
		{"approval by the applicant", func(s *story) { s.decisions[1].by = "wang" },
			rs{operators.ErrNotApproved, operators.ErrRole, operators.ErrSelfApproval}},
		{"approval by the operator's own official", func(s *story) { s.decisions[1].by = "mole" },
			rs{operators.ErrNotApproved, operators.ErrSelfApproval}},
		{"approval by a steward", func(s *story) { s.decisions[1].by = "sun" }, rs{operators.ErrNotApproved, operators.ErrRole}},
		{"approval by an official who has left", func(s *story) { s.absent = []string{"ma"} }, rs{operators.ErrAbsent, operators.ErrNotApproved}},
		{"approval forged", func(s *story) { s.forged = []any{&s.decisions[1]} }, rs{operators.ErrNotApproved, operators.ErrSignature}},
		{"approval from the future", func(s *story) { s.decisions[1].made = now + 6 }, rs{operators.ErrFuture, operators.ErrNotApproved}},
		{"approval before the application", func(s *story) { s.decisions[1].made = 0 }, rs{operators.ErrNotApproved, operators.ErrStale}},
		{"approval before the last consent", func(s *story) { s.decisions[1].made = 2 }, rs{operators.ErrNotApproved, operators.ErrStale}},
		{"consent narrowed after the approvals", func(s *story) {
			c := s.consents[0]
			c.EpsilonMicro, c.Made = 5, minute(8)
			s.consents = append(s.consents, c)
		}, rs{operators.ErrNotApproved, operators.ErrStale}},
		{"everybody has left", func(s *story) { s.absent = []string{"han", "ma", "wang", "sun", "li"} },
			rs{operators.ErrAbsent, operators.ErrNoConsent, operators.ErrNotApproved}},

		// Many at once.
		{"all reasons at once", func(s *story) {
			s.licenses[0].NotAfter, s.scenario.MinCohort, s.consents, s.decisions = minute(now), 1, nil, nil
		}, rs{operators.ErrExpired, operators.ErrInvalid, operators.ErrNoConsent, operators.ErrNotApproved}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := told()
			tt.do(st)
			g, err := st.authorize()
			if err == nil {
				t.Fatalf("granted %+v", g)
			}
			if diff := cmp.Diff(tt.want, rules(t, err)); diff != "" {
				t.Errorf("rules (-want +got):\n%s\n%v", diff, err)
			}
			for _, r := range tt.want {
				if !errors.Is(err, r) {
					t.Errorf("errors.Is(%v, %q) is false", err, r)
				}
			}
		})
	}
}

// What must not deny.
func TestAuthorizeGrants(t *testing.T) {
	tests := map[string]func(*story){
		"made within the clock skew":    func(s *story) { s.decisions[1].made = now + 5 },
		"licence of exactly five years": func(s *story) { s.licenses[0].NotAfter = canon.At(noon.AddDate(5, 0, 0)) },
		"suspended and resumed": func(s *story) {
			s.decisions = append(s.decisions, decision{"scenario", operators.Resume, "ma", 9}, decision{"scenario", operators.Suspend, "han", 8})
		},
		"licence suspended and resumed": func(s *story) {
			s.decisions = append(s.decisions, decision{"license 0", operators.Suspend, "han", 8}, decision{"license 0", operators.Resume, "han", 9})
		},
		"licence revoked, a new one issued": func(s *story) {
			s.licenses = append(s.licenses, s.licenses[0])
			s.licenses[1].Made = minute(9)
			s.decisions = append(s.decisions, decision{"license 0", operators.Revoke, "han", 8})
		},
		"consent revoked, given and approved anew": func(s *story) {
			s.consents = append(s.consents, s.consents[0])
			s.consents[2].Made = minute(9)
			s.decisions = append(s.decisions, decision{"consent 0", operators.Revoke, "li", 8},
				decision{"scenario", operators.Approve, "han", 9}, decision{"scenario", operators.Approve, "lin", 10})
		},
		"refused by an analyst of a rival":  func(s *story) { s.decisions = append(s.decisions, decision{"scenario", operators.Refuse, "qian", 8}) },
		"consent revoked by another agency": func(s *story) { s.decisions = append(s.decisions, decision{"consent 0", operators.Revoke, "sun", 8}) },
		"scenario revoked by a steward":     func(s *story) { s.decisions = append(s.decisions, decision{"scenario", operators.Revoke, "sun", 8}) },
		"revoked, but only later": func(s *story) {
			s.decisions = append(s.decisions, decision{"scenario", operators.Revoke, "han", now + 6})
		},
		"a third official approves":       func(s *story) { s.decisions = append(s.decisions, decision{"scenario", operators.Approve, "lin", 8}) },
		"the operator's own official too": func(s *story) { s.decisions = append(s.decisions, decision{"scenario", operators.Approve, "mole", 8}) },
		"an invalid licence beside a valid one": func(s *story) {
			s.licenses = append(s.licenses, operators.License{Operator: "harbour", By: "han", Made: minute(9)})
		},
		"a foreign consent beside the owner's": func(s *story) {
			s.consents = append(s.consents, s.consents[0])
			s.consents[2].By = "sun"
		},
		"people without a part have left": func(s *story) { s.absent = []string{"lin", "shui", "qian"} },
	}
	want := mustGrant(t, told()).Datasets
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			st := told()
			do(st)
			if diff := cmp.Diff(want, mustGrant(t, st).Datasets); diff != "" {
				t.Errorf("datasets (-want +got):\n%s", diff)
			}
		})
	}
}

// A grant keeps its name while what it rests on stands: a renewal and a third approval must not stop running jobs.
func TestGrantIsStable(t *testing.T) {
	want := mustGrant(t, told())
	st := told()
	st.licenses = append(st.licenses, st.licenses[0])
	st.licenses[1].Made, st.licenses[1].NotAfter = minute(9), canon.At(noon.AddDate(4, 0, 0))
	st.decisions = append(st.decisions, decision{"scenario", operators.Approve, "lin", 9}, decision{"scenario", operators.Approve, "han", 10})
	if diff := cmp.Diff(want, mustGrant(t, st)); diff != "" {
		t.Errorf("grant (-want +got):\n%s", diff)
	}
}

func TestGrantEndsWithTheLicence(t *testing.T) {
	st := told()
	st.licenses[0].NotAfter = minute(now + 30)
	if g := mustGrant(t, st); g.NotAfter != minute(now+30) {
		t.Errorf("grant ends %v", g.NotAfter)
	}
}

// Several consents: the narrowest holds, and the leaving of the steward who narrowed it does not widen it.
func TestNarrowestConsentHolds(t *testing.T) {
	st := told()
	narrow := st.consents[1]
	narrow.By, narrow.EpsilonMicro, narrow.Use.Columns = "shui", 7, narrow.Use.Columns[:1]
	st.consents = append(st.consents, narrow)
	want := mustGrant(t, st)
	use, limit, _ := want.Dataset("water")
	if limit.EpsilonMicro != 7 || len(use.Columns) != 1 || len(want.Consents) != 3 {
		t.Errorf("grant %+v %+v of %d consents", use, limit, len(want.Consents))
	}
	st.absent = []string{"shui"}
	if diff := cmp.Diff(want, mustGrant(t, st)); diff != "" {
		t.Errorf("the steward's leaving changed the grant (-want +got):\n%s", diff)
	}
}

func TestAnalystMustBelong(t *testing.T) {
	st := told()
	for _, who := range []string{"", "nobody", "qian", "han", "mole", "sun"} {
		r := st.request()
		r.Analyst = who
		if _, err := operators.Authorize(st.statements(), r); !errors.Is(err, operators.ErrNotMember) {
			t.Errorf("analyst %q: %v, want ErrNotMember", who, err)
		}
	}
	st.absent = []string{"zhao"}
	if _, err := st.authorize(); !errors.Is(err, operators.ErrNotMember) {
		t.Errorf("analyst who has left: %v, want ErrNotMember", err)
	}
}

func TestUnknownScenario(t *testing.T) {
	st := told()
	r := st.request()
	r.Scenario = operators.Digest{7}
	_, err := operators.Authorize(st.statements(), r)
	if !errors.Is(err, operators.ErrUnknown) {
		t.Errorf("unknown scenario: %v", err)
	}
}

// A denial is for people: it says what is wrong and what to do, and one reason can be picked out.
func TestDeniedError(t *testing.T) {
	st := told()
	st.consents = st.consents[:1]
	_, err := st.authorize()
	const want = `denied: owner "water" has not consented to scenario "ferry demand" using dataset "water" (a data steward of the owner can consent)`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	var r operators.Reason
	if !errors.As(err, &r) || r.Rule != operators.ErrNoConsent || r.Subject != "water" {
		t.Errorf("reason %+v", r)
	}
	if errors.Is(err, operators.ErrExpired) {
		t.Error("matches a rule that is not among its reasons")
	}
	if operators.Deny() != nil {
		t.Error("Deny without reasons is not nil")
	}
	if s := operators.Rule("else").Error(); !strings.Contains(s, "else") {
		t.Errorf("unknown rule reads %q", s)
	}
}
