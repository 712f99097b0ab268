package operators_test

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"sync"
	"testing"
	"time"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// The people of the tests. "mole" is an official who also stands in for operator harbour.
var people = []struct {
	name, body string
	role       operators.Role
}{
	{"han", "bureau", operators.RoleOfficial},
	{"ma", "bureau", operators.RoleOfficial},
	{"lin", "bureau", operators.RoleOfficial},
	{"mole", "harbour", operators.RoleOfficial},
	{"wang", "harbour", operators.RoleAnalyst},
	{"zhao", "harbour", operators.RoleAnalyst},
	{"qian", "rival", operators.RoleAnalyst},
	{"sun", "water", operators.RoleSteward},
	{"shui", "water", operators.RoleSteward},
	{"li", "transit", operators.RoleSteward},
	{"c1", "notary", operators.RoleCustodian},
	{"c2", "university", operators.RoleCustodian},
	{"c3", "court", operators.RoleCustodian},
}

func key(i byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{i}, ed25519.SeedSize))
}

var (
	rootKey = key(255)
	rootPub = rootKey.Public().(ed25519.PublicKey)
	keys    = func() map[string]ed25519.PrivateKey {
		m := map[string]ed25519.PrivateKey{"stranger": key(200)}
		for i, p := range people {
			m[p.name] = key(byte(i))
		}
		return m
	}()
	noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
)

// minute is an instant of the stories; they are told at minute 15.
func minute(m int) operators.Time { return canon.At(noon.Add(time.Duration(m) * time.Minute)) }

const now = 15

func roster(absent ...string) operators.Roster {
	r := operators.Roster{Lab: "lab.test", Serial: 1, Quorum: 2, Parties: []operators.Party{}, Made: minute(0)}
	for _, p := range people {
		r.Parties = append(r.Parties, operators.Party{Name: p.name, Role: p.role, Body: p.body,
			Verify: keys[p.name].Public().(ed25519.PublicKey), Absent: slices.Contains(absent, p.name)})
	}
	return r
}

func signRoster(r operators.Roster) operators.Signed {
	return sign(operators.KindRoster, r, operators.Root, rootKey)
}

// sign signs each statement once: the stories of the property tests mostly repeat each other.
func sign(kind string, v any, by string, k ed25519.PrivateKey) operators.Signed {
	body := canon.MustMarshal(v)
	id := kind + by + string(k) + string(body)
	sig, ok := signatures.Load(id)
	if !ok {
		sig, _ = signatures.LoadOrStore(id, canon.Sign(kind, body, by, k).Sig)
	}
	return operators.Signed{Kind: kind, Body: body, Sigs: []canon.Signature{{By: by, Sig: bytes.Clone(sig.([]byte))}}}
}

var signatures sync.Map

func uses(column string, us ...operators.Use) operators.ColumnUse {
	return operators.ColumnUse{Column: column, Uses: us}
}

// story is what was said in the lab, before anybody signs it. Decisions name their subject by what it is.
type story struct {
	licenses  []operators.License
	scenario  operators.Scenario
	consents  []operators.Consent
	decisions []decision
	absent    []string
	owners    map[string]string
	forged    []any // statements whose signature is broken: pointers into the above
}

type decision struct {
	about   string // "scenario", "license 0", "consent 1"
	verdict operators.Verdict
	by      string
	made    int
}

// told is a story in which everything is in order.
func told() *story {
	return &story{
		licenses: []operators.License{{
			Operator: "harbour", NotBefore: minute(0), NotAfter: canon.At(noon.AddDate(2, 0, 0)),
			SecurityReview: "SR-7", Agreement: "NDA-7", By: "han", Made: minute(0),
		}},
		scenario: operators.Scenario{
			Name: "ferry demand", Operator: "harbour", Purpose: "plan winter timetables",
			Datasets: []operators.DatasetUse{
				{Dataset: "rides", Columns: []operators.ColumnUse{
					uses("fare", operators.UseAggregate), uses("line", operators.UseFilter, operators.UseGroup)}},
				{Dataset: "water", Columns: []operators.ColumnUse{
					uses("litres", operators.UseAggregate), uses("town", operators.UseGroup)}},
			},
			EpsilonMicro: 2_000_000, JobEpsilonMicro: 500_000, MinCohort: 10, MarginMilli: 2000,
			Workers: []operators.Digest{{1}, {2}}, NotAfter: canon.At(noon.AddDate(1, 0, 0)), By: "wang", Made: minute(1),
		},
		consents: []operators.Consent{
			{Use: operators.DatasetUse{Dataset: "rides", Columns: []operators.ColumnUse{
				uses("fare", operators.UseAggregate), uses("line", operators.UseGroup)}},
				EpsilonMicro: 1_000_000, By: "li", Made: minute(2)},
			{Use: operators.DatasetUse{Dataset: "water", Columns: []operators.ColumnUse{
				uses("litres", operators.UseAggregate), uses("town", operators.UseGroup)}},
				EpsilonMicro: 9_000_000, By: "sun", Made: minute(3)},
		},
		decisions: []decision{
			{"scenario", operators.Approve, "han", 4},
			{"scenario", operators.Approve, "ma", 5},
		},
		owners: map[string]string{"rides": "transit", "water": "water"},
	}
}

// statements signs the story, in the order licences, scenario, consents, decisions.
func (st *story) statements() operators.Statements {
	r := roster(st.absent...)
	out := operators.Statements{Roster: signRoster(r), RootKey: rootPub, Owners: st.owners}
	digests := map[string]operators.Digest{"scenario": canon.DigestOf(st.scenario)}
	add := func(kind string, v any, by string, ref any) operators.Digest {
		s := sign(kind, v, by, keys[by])
		if slices.Contains(st.forged, ref) {
			s.Sigs[0].Sig[0] ^= 1
		}
		out.All = append(out.All, s)
		return s.Digest()
	}
	for i := range st.licenses {
		digests[label("license", i)] = add(operators.KindLicense, st.licenses[i], st.licenses[i].By, &st.licenses[i])
	}
	add(operators.KindScenario, st.scenario, st.scenario.By, &st.scenario)
	for i := range st.consents {
		c := st.consents[i]
		if c.Scenario.IsZero() {
			c.Scenario = digests["scenario"]
		}
		digests[label("consent", i)] = add(operators.KindConsent, c, c.By, &st.consents[i])
	}
	for i, d := range st.decisions {
		add(operators.KindDecision, operators.Decision{Subject: digests[d.about], Verdict: d.verdict, Reason: "because", By: d.by,
			Made: minute(d.made)}, d.by, &st.decisions[i])
	}
	return out
}

func label(what string, i int) string { return what + " " + string(rune('0'+i)) }

func (st *story) request() operators.Request {
	return operators.Request{Operator: "harbour", Scenario: canon.DigestOf(st.scenario), Analyst: "zhao", Now: minute(now).Time}
}

func (st *story) authorize() (*operators.Grant, error) {
	return operators.Authorize(st.statements(), st.request())
}

func mustGrant(t *testing.T, st *story) *operators.Grant {
	t.Helper()
	g, err := st.authorize()
	if err != nil {
		t.Fatalf("Authorize: %v", err)
	}
	return g
}

// rules lists the distinct rules of a denial, sorted.
func rules(t *testing.T, err error) []operators.Rule {
	t.Helper()
	denied, ok := err.(*operators.DeniedError)
	if !ok {
		t.Fatalf("error %v is a %T, want *DeniedError", err, err)
	}
	var out []operators.Rule
	for _, r := range denied.Reasons {
		out = append(out, r.Rule)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
