package operators_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// drawStory breaks, repairs and varies the good story at random, so that about as many end in a grant as in a denial.
func drawStory(t *rapid.T) *story {
	st := told()
	names := rapid.SampledFrom([]string{"han", "ma", "lin", "mole", "wang", "qian", "sun", "shui", "li"})
	officials := rapid.SampledFrom([]string{"han", "ma", "lin"})
	made := rapid.IntRange(0, now+8)
	subjects := rapid.SampledFrom([]string{"scenario", "license 0", "license 1", "consent 0", "consent 1", "consent 2"})
	verdicts := rapid.SampledFrom([]operators.Verdict{operators.Approve, operators.Refuse, operators.Suspend, operators.Resume, operators.Revoke, "sing"})
	for range rapid.IntRange(0, 5).Draw(t, "changes") {
		switch rapid.IntRange(0, 11).Draw(t, "change") {
		case 0: // another licence
			l := st.licenses[0]
			l.By, l.Made = names.Draw(t, "licence by"), minute(made.Draw(t, "licence made"))
			l.NotBefore, l.NotAfter = minute(rapid.IntRange(0, 20).Draw(t, "from")), minute(rapid.IntRange(10, 40).Draw(t, "to"))
			st.licenses = append(st.licenses, l)
		case 1: // another consent
			c := st.consents[rapid.IntRange(0, 1).Draw(t, "consent like")]
			c.By, c.Made = names.Draw(t, "consent by"), minute(made.Draw(t, "consent made"))
			c.EpsilonMicro = rapid.Int64Range(0, 3_000_000).Draw(t, "consent budget")
			c.Use.Columns = slices.Clone(c.Use.Columns)
			c.Use.Columns[0].Uses = rapid.SampledFrom([][]operators.Use{{operators.UseAggregate}, {operators.UseGroup}, {}}).Draw(t, "uses")
			if rapid.Bool().Draw(t, "fewer columns") {
				c.Use.Columns = c.Use.Columns[1:]
			}
			st.consents = append(st.consents, c)
		case 2, 3, 4: // a decision by anybody about anything
			st.decisions = append(st.decisions, decision{subjects.Draw(t, "about"), verdicts.Draw(t, "verdict"), names.Draw(t, "by"), made.Draw(t, "made")})
		case 5, 6: // an approval by an official
			st.decisions = append(st.decisions, decision{"scenario", operators.Approve, officials.Draw(t, "by"), made.Draw(t, "made")})
		case 7: // a suspension that may be lifted
			about := subjects.Draw(t, "about")
			st.decisions = append(st.decisions, decision{about, operators.Suspend, officials.Draw(t, "by"), made.Draw(t, "made")},
				decision{about, operators.Resume, officials.Draw(t, "by"), made.Draw(t, "made")})
		case 8: // somebody leaves
			st.absent = append(st.absent, names.Draw(t, "absent"))
		case 9: // an approval moves in time
			st.decisions[rapid.IntRange(0, 1).Draw(t, "approval")].made = made.Draw(t, "made")
		case 10: // a statement is lost
			switch rapid.IntRange(0, 2).Draw(t, "lost") {
			case 0:
				st.consents = st.consents[1:]
			case 1:
				st.decisions = st.decisions[1:]
			default:
				st.scenario.MinCohort = rapid.Int64Range(8, 12).Draw(t, "cohort")
			}
			if len(st.consents) < 2 || len(st.decisions) < 2 { // indices above must hold
				st.consents, st.decisions = append(st.consents, told().consents...), append(st.decisions, told().decisions...)
				st.consents, st.decisions = st.consents[:2], st.decisions[:2]
			}
		default: // a signature breaks
			switch rapid.IntRange(0, 3).Draw(t, "forged") {
			case 0:
				st.forged = append(st.forged, "license")
			case 1:
				st.forged = append(st.forged, "consent")
			case 2:
				st.forged = append(st.forged, "approval")
			default:
				st.forged = append(st.forged, "scenario")
			}
		}
	}
	for i, f := range st.forged { // now that the slices no longer move
		st.forged[i] = map[any]any{"license": &st.licenses[0], "consent": &st.consents[0], "approval": &st.decisions[0], "scenario": &st.scenario}[f]
	}
	return st
}

// oracle is the rule book told once more, over the story instead of the statements and condition by condition.
type oracle struct{ *story }

func (o oracle) counts(by, role string, made operators.Time, ref any) bool {
	return roleOf(by) == role && !made.After(minute(now+5).Time) && !slices.Contains(o.forged, ref)
}

func (o oracle) here(by string) bool { return !slices.Contains(o.absent, by) }

func roleOf(name string) string {
	for _, p := range people {
		if p.name == name {
			return string(p.role)
		}
	}
	return ""
}

func bodyOf(name string) string {
	for _, p := range people {
		if p.name == name {
			return p.body
		}
	}
	return ""
}

// said collects the minutes at which a verdict that counts was given about a subject.
func (o oracle) said(about string, v operators.Verdict, owner string) (at []int) {
	for i := range o.decisions {
		d := &o.decisions[i]
		official := o.counts(d.by, "official", minute(d.made), d)
		steward := v == operators.Revoke && bodyOf(d.by) == owner && o.counts(d.by, "steward", minute(d.made), d)
		if v == operators.Resume {
			official = official && o.here(d.by) && bodyOf(d.by) == "bureau"
		}
		if d.about == about && d.verdict == v && (official || steward) {
			at = append(at, d.made)
		}
	}
	return at
}

func (o oracle) suspended(about string) bool {
	for _, s := range o.said(about, operators.Suspend, "") {
		if !slices.ContainsFunc(o.said(about, operators.Resume, ""), func(r int) bool { return r > s }) {
			return true
		}
	}
	return false
}

// over reports whether any of the subjects was ended at or after the instant.
func (o oracle) over(subjects []string, made operators.Time, owner string) bool {
	for _, s := range subjects {
		for _, at := range append(o.said(s, operators.Refuse, owner), o.said(s, operators.Revoke, owner)...) {
			if !minute(at).Before(made.Time) {
				return true
			}
		}
	}
	return false
}

func (o oracle) licensed() bool {
	var all []string
	for i := range o.licenses {
		l := &o.licenses[i]
		if !o.counts(l.By, "official", l.Made, l) {
			continue
		}
		if o.suspended(label("license", i)) {
			return false
		}
		all = append(all, label("license", i))
	}
	for i := range o.licenses {
		l := &o.licenses[i]
		if o.counts(l.By, "official", l.Made, l) && o.here(l.By) && bodyOf(l.By) == "bureau" && !o.over(all, l.Made, "") &&
			l.NotBefore.Before(l.NotAfter.Time) && !minute(now).Before(l.NotBefore.Time) && minute(now).Before(l.NotAfter.Time) {
			return true
		}
	}
	return false
}

// consented tells how far a dataset may be used; changed is the minute from which approvals know it.
func (o oracle) consented(asked operators.DatasetUse) (use operators.DatasetUse, limit int64, changed operators.Time, ok bool) {
	owner, use, limit := o.owners[asked.Dataset], asked, o.scenario.EpsilonMicro
	var all []string
	for i := range o.consents {
		c := &o.consents[i]
		if c.Use.Dataset == asked.Dataset && o.counts(c.By, "steward", c.Made, c) {
			all = append(all, label("consent", i))
			if o.suspended(label("consent", i)) {
				return use, 0, changed, false
			}
		}
	}
	for i := range o.consents {
		c := &o.consents[i]
		if c.Use.Dataset != asked.Dataset || !o.counts(c.By, "steward", c.Made, c) || bodyOf(c.By) != owner || c.EpsilonMicro <= 0 ||
			c.Made.Before(o.scenario.Made.Time) || o.over(all, c.Made, owner) || len(c.Use.Columns) == 0 {
			continue
		}
		if slices.ContainsFunc(c.Use.Columns, func(col operators.ColumnUse) bool {
			return len(col.Uses) == 0 || slices.ContainsFunc(col.Uses, func(u operators.Use) bool { return !asked.May(col.Column, u) })
		}) {
			continue
		}
		ok = ok || o.here(c.By)
		limit = min(limit, c.EpsilonMicro)
		if c.Made.After(changed.Time) {
			changed = c.Made
		}
		var cols []operators.ColumnUse
		for _, col := range use.Columns {
			var us []operators.Use
			for _, u := range col.Uses {
				if c.Use.May(col.Column, u) {
					us = append(us, u)
				}
			}
			if us != nil {
				cols = append(cols, operators.ColumnUse{Column: col.Column, Uses: us})
			}
		}
		use = operators.DatasetUse{Dataset: use.Dataset, Columns: cols}
	}
	return use, limit, changed, ok && len(use.Columns) > 0
}

func (o oracle) grant() (datasets []operators.DatasetUse, limits []operators.Limit, ok bool) {
	s := &o.scenario
	if !o.licensed() || !o.counts(s.By, "analyst", s.Made, s) || !o.here(s.By) || s.MinCohort < 10 ||
		o.suspended("scenario") || o.over([]string{"scenario"}, operators.Time{}, "") {
		return nil, nil, false
	}
	since := s.Made
	for _, asked := range s.Datasets {
		use, limit, changed, ok := o.consented(asked)
		if !ok {
			return nil, nil, false
		}
		if changed.After(since.Time) {
			since = changed
		}
		datasets, limits = append(datasets, use), append(limits, operators.Limit{Dataset: asked.Dataset, EpsilonMicro: limit})
	}
	approvers := map[string]bool{}
	for i := range o.decisions {
		d := &o.decisions[i]
		if d.about == "scenario" && d.verdict == operators.Approve && o.counts(d.by, "official", minute(d.made), d) &&
			o.here(d.by) && bodyOf(d.by) == "bureau" && !minute(d.made).Before(since.Time) {
			approvers[d.by] = true
		}
	}
	return datasets, limits, len(approvers) >= 2
}

// TestOracle: a grant comes out exactly when every condition holds, and allows exactly what the consents leave.
func TestOracle(t *testing.T) {
	granted, denied := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		st := drawStory(t)
		got, err := st.authorize()
		datasets, limits, want := oracle{st}.grant()
		if want != (err == nil) {
			t.Fatalf("oracle says %v, Authorize %v", want, err)
		}
		if err != nil {
			denied++
			return
		}
		granted++
		if diff := cmp.Diff(datasets, got.Datasets); diff != "" {
			t.Fatalf("datasets (-oracle +got):\n%s", diff)
		}
		if diff := cmp.Diff(limits, got.Limits); diff != "" {
			t.Fatalf("limits (-oracle +got):\n%s", diff)
		}
	})
	if granted == 0 || denied == 0 {
		t.Errorf("%d granted, %d denied: the stories are one-sided", granted, denied)
	}
}

// answer is what a reader of the record gets, as bytes.
func answer(s operators.Statements, r operators.Request) string {
	g, err := operators.Authorize(s, r)
	if err != nil {
		return err.Error()
	}
	return string(canon.MustMarshal(g))
}

// TestOrderAndCopiesDoNotMatter: shuffled, repeated and mixed with rubbish, the record gives the same bytes, also of a
// denial.
func TestOrderAndCopiesDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st := drawStory(t)
		s, r := st.statements(), st.request()
		want := answer(s, r)
		more := slices.Clone(s.All)
		for range rapid.IntRange(0, 4).Draw(t, "copies") {
			more = append(more, s.All[rapid.IntRange(0, len(s.All)-1).Draw(t, "copy")])
		}
		// Another kind of artefact, and one that belongs to nobody's case.
		more = append(more, operators.Signed{Kind: "yingzhou.plan.v1", Body: []byte(`{}`)},
			sign(operators.KindConsent, operators.Consent{Scenario: operators.Digest{1}, Use: st.consents[0].Use, EpsilonMicro: 1, By: "li", Made: minute(2)}, "li", keys["li"]))
		for i := len(s.All) - 1; i >= 0; i-- { // forged copies of genuine statements must not displace them
			forged := s.All[i]
			forged.Sigs = []canon.Signature{{By: forged.Sigs[0].By, Sig: make([]byte, 64)}}
			more = append(more, forged)
		}
		order := make([]int, len(more))
		for i := range order {
			order[i] = i
		}
		s.All = nil
		for _, i := range rapid.Permutation(order).Draw(t, "order") {
			s.All = append(s.All, more[i])
		}
		if got := answer(s, r); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

// TestLeavingNeverWidens: when somebody leaves, what was denied stays denied and what was granted does not grow.
func TestLeavingNeverWidens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st := drawStory(t)
		before, err := st.authorize()
		leaver := rapid.SampledFrom(people).Draw(t, "leaver")
		if leaver.role == operators.RoleCustodian {
			return
		}
		st.absent = append(st.absent, leaver.name)
		after, errAfter := st.authorize()
		if errAfter != nil {
			return
		}
		if err != nil {
			t.Fatalf("denied with %q (%v), granted without", leaver.name, err)
		}
		for i, d := range after.Datasets {
			if !d.Within(before.Datasets[i]) || after.Limits[i].EpsilonMicro > before.Limits[i].EpsilonMicro {
				t.Fatalf("without %q dataset %q grew", leaver.name, d.Dataset)
			}
		}
	})
}

// TestEveryReasonHasASubject: a denial that nobody can act on is a bug.
func TestEveryReasonHasASubject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, err := drawStory(t).authorize()
		var denied *operators.DeniedError
		if err == nil || !errors.As(err, &denied) {
			return
		}
		for _, r := range denied.Reasons {
			if r.Subject == "" || r.Text == "" || strings.HasPrefix(r.Rule.Error(), "rule ") {
				t.Fatalf("reason %+v", r)
			}
		}
	})
}

// BenchmarkAuthorize: nearly all of it is one signature check per statement.
func BenchmarkAuthorize(b *testing.B) {
	st := told()
	s, r := st.statements(), st.request()
	for b.Loop() {
		if _, err := operators.Authorize(s, r); err != nil {
			b.Fatal(err)
		}
	}
}
