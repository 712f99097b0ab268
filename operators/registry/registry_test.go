package registry_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
)

func TestStory(t *testing.T) {
	l, s := at(t, approved)
	want := []operators.Digest{s.license, s.scenario, s.rides, s.water, s.han, s.ma}
	if diff := cmp.Diff(want, l.log); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	d, err := l.Docket(t.Context(), l.now)
	if err != nil {
		t.Fatal(err)
	}
	g, err := d.Authorize("harbour", s.scenario, "wang")
	if err != nil {
		t.Fatal(err)
	}
	if use, limit, ok := g.Dataset("rides"); !ok || len(use.Columns) != 1 || limit.EpsilonMicro != 1_000_000 {
		t.Errorf("rides granted as %+v, %+v, %v", use, limit, ok)
	}
}

// Each row tries one thing that must be refused before it is signed; nothing may reach the log or the store.
func TestRefusals(t *testing.T) {
	type rs = []operators.Rule
	type act func(context.Context, *lab, stage) (operators.Digest, error)
	tests := []struct {
		name  string
		stage int
		do    act
		want  []operators.Rule
	}{
		// Licences.
		{"licence by an analyst", 0, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Issue(ctx, who("wang"), l.license())
		}, rs{operators.ErrRole}},
		{"licence for the own body", 0, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Issue(ctx, who("mole"), l.license())
		}, rs{operators.ErrSelfApproval}},
		{"licence by a stranger", 0, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Issue(ctx, who("stranger"), l.license())
		}, rs{operators.ErrUnknown}},
		{"licence by an official who has left", 0, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			l.leave("han")
			return l.Issue(ctx, who("han"), l.license())
		}, rs{operators.ErrAbsent}},
		{"licence with everything wrong", 0, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Issue(ctx, who("han"), operators.License{Operator: "habrour", NotBefore: canon.At(l.now.AddDate(-7, 0, 0)), NotAfter: canon.At(l.now.AddDate(-1, 0, 0))})
		}, rs{operators.ErrExpired, operators.ErrInvalid, operators.ErrUnknown}},
		{"licence while suspended", licensed, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			if _, err := l.Suspend(ctx, who("ma"), s.license, "drill"); err != nil {
				return s.license, err
			}
			return l.Issue(ctx, who("han"), l.license())
		}, rs{operators.ErrSuspended}},
		{"licence in the second of the revocation", licensed, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			if _, err := l.Revoke(ctx, who("ma"), s.license, "breach"); err != nil {
				return s.license, err
			}
			return l.Issue(ctx, who("han"), l.license())
		}, rs{operators.ErrRevoked}},

		// Applications.
		{"application without licence", 0, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Apply(ctx, who("wang"), l.scenario())
		}, rs{operators.ErrUnlicensed}},
		{"application for another operator", licensed, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Apply(ctx, who("qian"), l.scenario())
		}, rs{operators.ErrNotMember}},
		{"application for unknown data, ended, small cells", licensed, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			a := l.scenario()
			a.Datasets, a.MinCohort, a.NotAfter = []operators.DatasetUse{use("tax", "income")}, 3, canon.At(l.now)
			return l.Apply(ctx, who("wang"), a)
		}, rs{operators.ErrExpired, operators.ErrInvalid, operators.ErrUnknown}},
		{"application without canonical form", licensed, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			a := l.scenario()
			a.Workers = []operators.Digest{}
			return l.Apply(ctx, who("wang"), a)
		}, rs{operators.ErrInvalid}},

		// Consents.
		{"consent to another agency's data", applied, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Consent(ctx, who("sun"), consent(s.scenario, use("rides", "fare")))
		}, rs{operators.ErrOwner}},
		{"consent to more than asked", applied, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Consent(ctx, who("li"), consent(s.scenario, use("rides", "name")))
		}, rs{operators.ErrWideConsent}},
		{"consent to data not asked", applied, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			l.owners["tax"] = "transit"
			return l.Consent(ctx, who("li"), consent(s.scenario, use("tax", "income")))
		}, rs{operators.ErrWideConsent}},
		{"consent to nothing on record", applied, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Consent(ctx, who("li"), consent(operators.Digest{1}, use("rides", "fare")))
		}, rs{operators.ErrUnknown}},
		{"consent by an official", applied, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Consent(ctx, who("han"), consent(s.scenario, use("rides", "fare")))
		}, rs{operators.ErrRole}},
		{"consent repeated", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Consent(ctx, who("li"), consent(s.scenario, use("rides", "fare")))
		}, rs{operators.ErrRepeated}},
		{"consent widened", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Consent(ctx, who("li"), consent(s.scenario, use("rides", "fare", "line")))
		}, rs{operators.ErrWideConsent}},
		{"consent to a refused scenario", applied, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			if _, err := l.Refuse(ctx, who("ma"), s.scenario, "no need shown"); err != nil {
				return s.scenario, err
			}
			return l.Consent(ctx, who("li"), consent(s.scenario, use("rides", "fare")))
		}, rs{operators.ErrRefused}},

		// Approvals.
		{"approval by the applicant", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Approve(ctx, who("wang"), s.scenario, "")
		}, rs{operators.ErrRole}},
		{"approval by the operator's own official", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Approve(ctx, who("mole"), s.scenario, "")
		}, rs{operators.ErrSelfApproval}},
		{"approval by a steward", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Approve(ctx, who("li"), s.scenario, "")
		}, rs{operators.ErrRole}},
		{"approval twice by one official", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Approve(ctx, who("han"), s.scenario, "again")
		}, rs{operators.ErrRepeated}},
		{"approval before consent", applied, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Approve(ctx, who("han"), s.scenario, "")
		}, rs{operators.ErrNoConsent}},
		{"approval of a licence", licensed, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Approve(ctx, who("han"), s.license, "")
		}, rs{operators.ErrInvalid}},
		{"approval of nothing on record", approved, func(ctx context.Context, l *lab, _ stage) (operators.Digest, error) {
			return l.Approve(ctx, who("han"), operators.Digest{1}, "")
		}, rs{operators.ErrUnknown}},
		{"approval of an expired scenario", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			l.now = l.now.AddDate(1, 0, 0)
			return l.Approve(ctx, who("han"), s.scenario, "")
		}, rs{operators.ErrExpired}},

		// Other decisions.
		{"refusal without a reason", applied, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Refuse(ctx, who("han"), s.scenario, " ")
		}, rs{operators.ErrInvalid}},
		{"refusal of a licence", licensed, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Refuse(ctx, who("han"), s.license, "no")
		}, rs{operators.ErrInvalid}},
		{"refusal of the revoked", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			if _, err := l.Revoke(ctx, who("ma"), s.scenario, "breach"); err != nil {
				return s.scenario, err
			}
			return l.Refuse(ctx, who("han"), s.scenario, "no")
		}, rs{operators.ErrRepeated}},
		{"suspension of a consent", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Suspend(ctx, who("han"), s.rides, "drill")
		}, rs{operators.ErrInvalid}},
		{"suspension twice", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			if _, err := l.Suspend(ctx, who("ma"), s.scenario, "drill"); err != nil {
				return s.scenario, err
			}
			return l.Suspend(ctx, who("han"), s.scenario, "drill")
		}, rs{operators.ErrRepeated}},
		{"suspension by a steward", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Suspend(ctx, who("li"), s.scenario, "drill")
		}, rs{operators.ErrRole}},
		{"resumption of what runs", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Resume(ctx, who("han"), s.scenario, "fine")
		}, rs{operators.ErrRepeated}},
		{"resumption in the same second", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			if _, err := l.Suspend(ctx, who("ma"), s.scenario, "drill"); err != nil {
				return s.scenario, err
			}
			return l.Resume(ctx, who("han"), s.scenario, "fine")
		}, rs{operators.ErrStale}},
		{"resumption by the operator's own official", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			if _, err := l.Suspend(ctx, who("ma"), s.license, "drill"); err != nil {
				return s.scenario, err
			}
			l.tick()
			return l.Resume(ctx, who("mole"), s.license, "fine")
		}, rs{operators.ErrSelfApproval}},
		{"revocation of another agency's consent", consented, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Revoke(ctx, who("sun"), s.rides, "mind changed")
		}, rs{operators.ErrOwner}},
		{"revocation of a scenario by a steward", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Revoke(ctx, who("li"), s.scenario, "mind changed")
		}, rs{operators.ErrRole}},
		{"revocation by an analyst", approved, func(ctx context.Context, l *lab, s stage) (operators.Digest, error) {
			return l.Revoke(ctx, who("wang"), s.rides, "mind changed")
		}, rs{operators.ErrRole}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, s := at(t, tt.stage)
			d, err := tt.do(t.Context(), l, s)
			if err == nil {
				t.Fatalf("recorded %s", d.Short())
			}
			if diff := cmp.Diff(tt.want, rules(t, err)); diff != "" {
				t.Errorf("rules (-want +got):\n%s\n%v", diff, err)
			}
			if len(l.log) != len(l.store.all) {
				t.Errorf("%d log entries for %d statements", len(l.log), len(l.store.all))
			}
		})
	}
}

// What a person may do after changing one's mind.
func TestChangesOfMind(t *testing.T) {
	l, s := at(t, approved)
	ctx := t.Context()
	show := func(want registry.State) *registry.Status {
		t.Helper()
		st, err := l.Status(ctx, s.scenario, l.now)
		if err != nil {
			t.Fatal(err)
		}
		if st.State != want || (st.Grant != nil) != (want == registry.Approved) {
			t.Fatalf("state %q with grant %v, want %q: %v", st.State, st.Grant, want, st.Reasons)
		}
		return st
	}
	show(registry.Approved)

	l.must(t, "suspend")(l.Suspend(ctx, who("lin"), s.scenario, "incident drill"))
	show(registry.Suspended)
	l.must(t, "resume")(l.Resume(ctx, who("ma"), s.scenario, "drill over"))
	show(registry.Approved)

	// Narrowing asks the officials anew, the budget goes down.
	narrow := consent(s.scenario, use("rides", "fare"))
	narrow.EpsilonMicro = 7
	l.must(t, "narrow")(l.Consent(ctx, who("li"), narrow))
	show(registry.Consented)
	l.must(t, "approve")(l.Approve(ctx, who("han"), s.scenario, ""))
	l.must(t, "approve")(l.Approve(ctx, who("lin"), s.scenario, ""))
	if st := show(registry.Approved); st.Grant.Limits[0].EpsilonMicro != 7 {
		t.Errorf("limits %+v", st.Grant.Limits)
	}

	// Revoking one consent ends both; widening is a new consent.
	l.must(t, "revoke")(l.Revoke(ctx, who("li"), s.rides, "to widen"))
	show(registry.Applied)
	l.must(t, "widen")(l.Consent(ctx, who("li"), consent(s.scenario, use("rides", "fare", "line"))))
	show(registry.Consented)
	l.must(t, "approve")(l.Approve(ctx, who("ma"), s.scenario, ""))
	l.must(t, "approve")(l.Approve(ctx, who("han"), s.scenario, ""))
	show(registry.Approved)

	// A revoked licence blocks until another is issued.
	l.must(t, "revoke")(l.Revoke(ctx, who("lin"), s.license, "review lapsed"))
	show(registry.Blocked)
	l.must(t, "issue")(l.Issue(ctx, who("ma"), l.license()))
	show(registry.Approved)

	// Two licences suspended: each is resumed by its own name.
	second := l.must(t, "renew")(l.Issue(ctx, who("han"), l.license()))
	third := l.must(t, "renew")(l.Issue(ctx, who("han"), l.license()))
	l.must(t, "suspend")(l.Suspend(ctx, who("han"), second, "drill"))
	l.must(t, "suspend")(l.Suspend(ctx, who("han"), third, "drill"))
	if st := show(registry.Suspended); len(st.Next) != 2 {
		t.Errorf("next %+v, want two steps", st.Next)
	}
	l.must(t, "resume")(l.Resume(ctx, who("ma"), third, "over"))
	show(registry.Suspended)
	l.must(t, "resume")(l.Resume(ctx, who("ma"), second, "over"))
	show(registry.Approved)

	// The applicant leaves: the application rests on nobody.
	l.leave("wang")
	if st := show(registry.Blocked); len(st.Next) != 1 || len(st.Next[0].Who) != 0 {
		t.Errorf("next %+v, want one step that nobody in the roster can take", st.Next)
	}
}

func TestRecordChecksWhatWasSignedElsewhere(t *testing.T) {
	l, s := at(t, consented)
	decision := operators.Decision{Subject: s.scenario, Verdict: operators.Approve, Reason: "", By: "han", Made: canon.At(l.now)}
	sign := func(v any, kind, by string) operators.Signed {
		k := who(by)
		body := canon.MustMarshal(v)
		sig, err := k.Sign(kind, body)
		if err != nil {
			t.Fatal(err)
		}
		return operators.Signed{Kind: kind, Body: body, Sigs: []canon.Signature{sig}}
	}
	forged := sign(decision, operators.KindDecision, "han")
	forged.Sigs[0].Sig[0] ^= 1
	future := decision
	future.Made = canon.At(l.now.Add(6 * time.Minute))
	stale := decision
	stale.Made = canon.At(l.now.Add(-time.Hour))
	self := decision
	self.By = "mole"
	for name, tt := range map[string]struct {
		s    operators.Signed
		want error
	}{
		"forged":         {forged, operators.ErrSignature},
		"other's name":   {sign(decision, operators.KindDecision, "ma"), operators.ErrSignature},
		"future":         {sign(future, operators.KindDecision, "han"), operators.ErrFuture},
		"before consent": {sign(stale, operators.KindDecision, "han"), operators.ErrStale},
		"self-approval":  {sign(self, operators.KindDecision, "mole"), operators.ErrSelfApproval},
		"no statement":   {sign(decision, "yingzhou.plan.v1", "han"), operators.ErrInvalid},
		"other kind":     {sign(decision, operators.KindLicense, "han"), operators.ErrInvalid},
		"no body":        {operators.Signed{Kind: operators.KindDecision}, operators.ErrInvalid},
	} {
		before := len(l.log)
		if err := l.Check(t.Context(), tt.s); !errors.Is(err, tt.want) {
			t.Errorf("%s: Check: %v, want %v", name, err, tt.want)
		}
		if _, err := l.Record(t.Context(), tt.s); !errors.Is(err, tt.want) {
			t.Errorf("%s: Record: %v, want %v", name, err, tt.want)
		}
		if len(l.log) != before {
			t.Errorf("%s: reached the log", name)
		}
	}
	good := sign(decision, operators.KindDecision, "han")
	if err := l.Check(t.Context(), good); err != nil || len(l.store.all) != 4 {
		t.Errorf("Check of a good statement: %v, %d stored", err, len(l.store.all))
	}
	for range 2 { // the second time it is on record already
		if d, err := l.Record(t.Context(), good); err != nil || d != good.Digest() {
			t.Fatalf("Record: %s, %v", d.Short(), err)
		}
	}
	if len(l.log) != 5 || len(l.store.all) != 5 {
		t.Errorf("%d log entries, %d statements, want 5", len(l.log), len(l.store.all))
	}
}

// If the log cannot be written, the action does not happen; if only the store fails, sending it again completes it.
func TestLogBeforeStore(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	l.logErr = errors.New("disk full")
	if _, err := l.Issue(ctx, who("han"), l.license()); !errors.Is(err, l.logErr) {
		t.Errorf("failing log: %v", err)
	}
	if len(l.store.all) != 0 {
		t.Error("stored without a log entry")
	}
	lic := l.license()
	lic.By, lic.Made = "han", canon.At(l.now)
	s := operators.Signed{Kind: operators.KindLicense, Body: canon.MustMarshal(lic)}
	sig, err := who("han").Sign(s.Kind, s.Body)
	if err != nil {
		t.Fatal(err)
	}
	s.Sigs = []canon.Signature{sig}
	l.logErr, l.store.err = nil, errors.New("network down")
	if _, err := l.Record(ctx, s); !errors.Is(err, l.store.err) {
		t.Errorf("failing store: %v", err)
	}
	l.store.err = nil
	if _, err := l.Record(ctx, s); err != nil {
		t.Fatal(err)
	}
	if len(l.log) != 2 || l.log[0] != l.log[1] || len(l.store.all) != 1 {
		t.Errorf("log %v, %d stored", l.log, len(l.store.all))
	}
}

type refusing struct{ registry.Key }

func (refusing) Sign(string, []byte) (canon.Signature, error) {
	return canon.Signature{}, errors.New("touch the passkey")
}

func TestSignerMayRefuse(t *testing.T) {
	l := newLab(t)
	if _, err := l.Issue(t.Context(), refusing{who("han")}, l.license()); err == nil || !strings.Contains(err.Error(), "touch the passkey") {
		t.Errorf("Issue: %v", err)
	}
	// Nobody is asked to sign what the rules refuse.
	if _, err := l.Issue(t.Context(), refusing{who("mole")}, l.license()); !errors.Is(err, operators.ErrSelfApproval) {
		t.Errorf("Issue by the operator's own official: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := registry.Config{
		Store: &memory{}, Log: func(context.Context, operators.Signed, string) error { return nil },
		RootKey: make(ed25519.PublicKey, ed25519.PublicKeySize),
		Roster: func(context.Context) (operators.Signed, error) {
			return operators.Signed{}, errors.New("no roster yet")
		},
		Owners: func(context.Context) (map[string]string, error) { return nil, nil },
		Clock:  time.Now,
	}
	r, err := registry.New(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Status(t.Context(), operators.Digest{1}, time.Now()); err == nil || !strings.Contains(err.Error(), "no roster yet") {
		t.Errorf("Status without a roster: %v", err)
	}
	for name, spoil := range map[string]func(*registry.Config){
		"store":  func(c *registry.Config) { c.Store = nil },
		"log":    func(c *registry.Config) { c.Log = nil },
		"root":   func(c *registry.Config) { c.RootKey = nil },
		"roster": func(c *registry.Config) { c.Roster = nil },
		"owners": func(c *registry.Config) { c.Owners = nil },
		"clock":  func(c *registry.Config) { c.Clock = nil },
	} {
		c := good
		spoil(&c)
		if _, err := registry.New(c); err == nil {
			t.Errorf("New without %s", name)
		}
	}
}

func TestKeyNeverPrints(t *testing.T) {
	k := who("han")
	secret := fmt.Sprintf("%x", []byte(seeded(0)[:8]))
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k)
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %x %s", k, k, k, &k), log.String()} {
		if !strings.Contains(s, "key of") || strings.Contains(s, secret) || strings.Contains(s, "[0 0 0") {
			t.Errorf("printed as %q", s)
		}
	}
	if _, err := registry.NewKey("han", seeded(0)[:32]); err == nil {
		t.Error("NewKey took half a key")
	}
}

// TestAnythingGoes drives a registry at random: whatever it accepts, the status says "approved" exactly when Authorize
// grants, says what comes next otherwise, and log and store agree.
func TestAnythingGoes(t *testing.T) {
	seen := map[registry.State]bool{}
	rapid.Check(t, func(rt *rapid.T) {
		l, s := at(t, rapid.IntRange(licensed, approved).Draw(rt, "stage"))
		ctx := t.Context()
		names := rapid.SampledFrom([]string{"han", "ma", "lin", "mole", "wang", "qian", "sun", "li"})
		for range rapid.IntRange(1, 10).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "tick") {
				l.tick()
			}
			by := who(names.Draw(rt, "by"))
			digests := []operators.Digest{s.license, s.scenario}
			for _, st := range l.store.all {
				if st.Kind != operators.KindDecision {
					digests = append(digests, st.Digest())
				}
			}
			about := digests[rapid.IntRange(0, len(digests)-1).Draw(rt, "about")]
			var err error
			switch rapid.IntRange(0, 9).Draw(rt, "do") {
			case 0:
				_, err = l.Issue(ctx, by, l.license())
			case 1:
				_, err = l.Apply(ctx, by, l.scenario())
			case 2:
				_, err = l.Consent(ctx, by, consent(about, use("rides", rapid.SampledFrom([]string{"fare", "line", "name"}).Draw(rt, "column"))))
			case 3:
				_, err = l.Consent(ctx, by, consent(about, use("water", "litres")))
			case 4, 5:
				_, err = l.Approve(ctx, by, about, "")
			case 6:
				_, err = l.Refuse(ctx, by, about, "no")
			case 7:
				_, err = l.Suspend(ctx, by, about, "wait")
			case 8:
				_, err = l.Resume(ctx, by, about, "go on")
			default:
				_, err = l.Revoke(ctx, by, about, "over")
			}
			if err != nil {
				rules(t, err) // a refusal always gives reasons
			}
		}
		if len(l.log) != len(l.store.all) {
			rt.Fatalf("%d log entries for %d statements", len(l.log), len(l.store.all))
		}
		if rapid.Bool().Draw(rt, "leave") {
			l.leave(names.Draw(rt, "leaver"))
		}
		if rapid.IntRange(0, 9).Draw(rt, "later") == 0 {
			l.now = l.now.AddDate(rapid.IntRange(1, 3).Draw(rt, "years"), 0, 0)
		}
		all, err := l.List(ctx, l.now)
		if err != nil {
			rt.Fatal(err)
		}
		for _, st := range all {
			seen[st.State] = true
			if (st.State == registry.Approved) != (st.Grant != nil) || (st.Grant == nil) != (len(st.Reasons) > 0) {
				rt.Fatalf("state %q, grant %v, reasons %v", st.State, st.Grant, st.Reasons)
			}
			if (st.State == registry.Approved) != (len(st.Next) == 0) {
				rt.Fatalf("state %q, next %+v", st.State, st.Next)
			}
			if len(st.Timeline) == 0 || !slices.IsSortedFunc(st.Timeline, func(a, b registry.Event) int { return a.At.Compare(b.At.Time) }) {
				rt.Fatalf("timeline %+v", st.Timeline)
			}
			for _, e := range st.Timeline {
				if e.Counts != (e.Note == "") {
					rt.Fatalf("event %+v", e)
				}
			}
		}
	})
	if len(seen) < 6 && !testing.Short() { // -short draws too few stories to reach them
		t.Errorf("only reached %v", seen)
	}
}
