package registry_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
)

var people = []struct {
	name, body string
	role       operators.Role
}{
	{"han", "bureau", operators.RoleOfficial},
	{"ma", "bureau", operators.RoleOfficial},
	{"lin", "bureau", operators.RoleOfficial},
	{"mole", "harbour", operators.RoleOfficial},
	{"wang", "harbour", operators.RoleAnalyst},
	{"qian", "rival", operators.RoleAnalyst},
	{"sun", "water", operators.RoleSteward},
	{"li", "transit", operators.RoleSteward},
	{"c1", "notary", operators.RoleCustodian},
	{"c2", "university", operators.RoleCustodian},
	{"c3", "court", operators.RoleCustodian},
}

func seeded(i byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{i}, ed25519.SeedSize))
}

// memory is a Store that keeps its contract: a repeated Append is no second statement.
type memory struct {
	all []operators.Signed
	err error
}

func (m *memory) Append(_ context.Context, s operators.Signed) error {
	if m.err != nil {
		return m.err
	}
	if !slices.ContainsFunc(m.all, func(have operators.Signed) bool { return have.Kind == s.Kind && have.Digest() == s.Digest() }) {
		m.all = append(m.all, s)
	}
	return nil
}

func (m *memory) All(context.Context) ([]operators.Signed, error) { return slices.Clone(m.all), nil }

// lab is a registry with a record, a log and a clock that the test holds.
type lab struct {
	*registry.Registry
	store  memory
	log    []operators.Digest
	logErr error
	now    time.Time
	roster operators.Roster
	signed operators.Signed // roster, once it was asked for
	owners map[string]string
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), owners: map[string]string{"rides": "transit", "water": "water"}}
	l.roster = operators.Roster{Lab: "lab.test", Serial: 1, Quorum: 2, Parties: []operators.Party{}, Made: canon.At(l.now)}
	for i, p := range people {
		l.roster.Parties = append(l.roster.Parties, operators.Party{Name: p.name, Role: p.role, Body: p.body, Verify: seeded(byte(i)).Public().(ed25519.PublicKey)})
	}
	root := seeded(255)
	r, err := registry.New(registry.Config{
		Store: &l.store,
		Log: func(_ context.Context, s operators.Signed, by string) error {
			d := s.Digest()
			if l.logErr != nil {
				return l.logErr
			}
			if by == "" {
				t.Error("log entry by nobody")
			}
			if slices.ContainsFunc(l.store.all, func(s operators.Signed) bool { return s.Digest() == d }) {
				t.Errorf("%s was stored before it was logged", d.Short())
			}
			l.log = append(l.log, d)
			return nil
		},
		RootKey: root.Public().(ed25519.PublicKey),
		Roster: func(context.Context) (operators.Signed, error) {
			if l.signed.Body == nil {
				var err error
				if l.signed, err = canon.Seal(operators.KindRoster, l.roster, operators.Root, root); err != nil {
					t.Fatal(err)
				}
			}
			return l.signed, nil
		},
		Owners: func(context.Context) (map[string]string, error) { return l.owners, nil },
		Clock:  func() time.Time { return l.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Registry = r
	return l
}

// tick lets a minute pass.
func (l *lab) tick() { l.now = l.now.Add(time.Minute) }

// leave marks a person absent in the next roster.
func (l *lab) leave(name string) {
	l.roster.Serial++
	l.signed = operators.Signed{}
	for i := range l.roster.Parties {
		if l.roster.Parties[i].Name == name {
			l.roster.Parties[i].Absent = true
		}
	}
}

func who(name string) registry.Key {
	i := slices.IndexFunc(people, func(p struct {
		name, body string
		role       operators.Role
	}) bool {
		return p.name == name
	})
	key := seeded(200) // a stranger's
	if i >= 0 {
		key = seeded(byte(i))
	}
	k, err := registry.NewKey(name, key)
	if err != nil {
		panic(err)
	}
	return k
}

func (l *lab) license() operators.License {
	return operators.License{Operator: "harbour", NotBefore: canon.At(l.now), NotAfter: canon.At(l.now.AddDate(2, 0, 0)), SecurityReview: "SR-7", Agreement: "NDA-7"}
}

func use(dataset string, columns ...string) operators.DatasetUse {
	d := operators.DatasetUse{Dataset: dataset, Columns: []operators.ColumnUse{}}
	for _, c := range columns {
		d.Columns = append(d.Columns, operators.ColumnUse{Column: c, Uses: []operators.Use{operators.UseAggregate}})
	}
	return d
}

func (l *lab) scenario() operators.Scenario {
	return operators.Scenario{
		Name: "ferry demand", Operator: "harbour", Purpose: "plan winter timetables",
		Datasets:     []operators.DatasetUse{use("rides", "fare", "line"), use("water", "litres")},
		EpsilonMicro: 2_000_000, JobEpsilonMicro: 500_000, MinCohort: 10, MarginMilli: 2000,
		Workers: []operators.Digest{{1}}, NotAfter: canon.At(l.now.AddDate(1, 0, 0)),
	}
}

func consent(s operators.Digest, u operators.DatasetUse) operators.Consent {
	return operators.Consent{Scenario: s, Use: u, EpsilonMicro: 1_000_000}
}

// must fails the test on an error and lets a minute pass.
func (l *lab) must(t testing.TB, what string) func(operators.Digest, error) operators.Digest {
	return func(d operators.Digest, err error) operators.Digest {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		l.tick()
		return d
	}
}

// stage is how far the story of a lab has gone.
type stage struct {
	license, scenario, rides, water, han, ma operators.Digest
}

const (
	licensed = iota + 1
	applied
	consented
	approved
)

// at tells the story up to a stage.
func at(t testing.TB, upTo int) (*lab, stage) {
	t.Helper()
	l := newLab(t)
	ctx := t.Context()
	var s stage
	if upTo >= licensed {
		s.license = l.must(t, "issue")(l.Issue(ctx, who("han"), l.license()))
	}
	if upTo >= applied {
		s.scenario = l.must(t, "apply")(l.Apply(ctx, who("wang"), l.scenario()))
	}
	if upTo >= consented {
		s.rides = l.must(t, "consent")(l.Consent(ctx, who("li"), consent(s.scenario, use("rides", "fare"))))
		s.water = l.must(t, "consent")(l.Consent(ctx, who("sun"), consent(s.scenario, use("water", "litres"))))
	}
	if upTo >= approved {
		s.han = l.must(t, "approve")(l.Approve(ctx, who("han"), s.scenario, "useful"))
		s.ma = l.must(t, "approve")(l.Approve(ctx, who("ma"), s.scenario, ""))
	}
	return l, s
}

func rules(t testing.TB, err error) []operators.Rule {
	t.Helper()
	var denied *operators.DeniedError
	if !errors.As(err, &denied) {
		t.Fatalf("error %v, want a *DeniedError", err)
	}
	var out []operators.Rule
	for _, r := range denied.Reasons {
		out = append(out, r.Rule)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
