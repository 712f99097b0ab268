package db_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/db/dbtest"
)

// fillStore writes records of every kind.
func fillStore(t *testing.T, s *db.DB) {
	t.Helper()
	ctx, noon := t.Context(), time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	_, err1 := s.AppendStatement(ctx, dbtest.Signed("license", `{"a":1}`, "wang"), noon)
	_, err2 := s.AppendStatement(ctx, dbtest.Signed("scenario", `{"b":1}`, "li"), noon)
	_, err3 := s.PutArtefact(ctx, dbtest.Signed("plan", `{"n":1}`, "lab"), noon)
	err := errors.Join(err1, err2, err3, s.BindKeyset(ctx, "水", enclave.Digest{1}), s.Publish(ctx, "水", enclave.Digest{}, enclave.Digest{2}),
		s.BindKeyset(ctx, "air", enclave.Digest{1}), s.KeepPending(ctx, dbtest.Signed("consent", `{"c":1}`, "wang"), noon), s.SetSetting(ctx, "a", []byte{0, 255}),
		s.NoteEntry(ctx, 7, enclave.Entry{Type: enclave.EntryPlan, Subject: enclave.Digest{1}, Job: "x", At: canon.At(noon)}))
	if err != nil {
		t.Fatal(err)
	}
	done := plan(t, s, 0)
	if err := walk(ctx, done.ID, s); err != nil {
		t.Fatal(err)
	}
	if err := s.PutRelease(ctx, sandbox.SealedRelease{Job: done.ID, Release: enclave.Digest{4}, Table: []byte("sealed"), Made: noon}); err != nil {
		t.Fatal(err)
	}
	plan(t, s, 1)
}

// contents reads everything that a store has to say.
func contents(t *testing.T, s *db.DB) (out struct {
	Statements []sandbox.Statement
	Pending    []sandbox.Statement
	Plans      []enclave.Signed
	Datasets   []sandbox.Dataset
	Jobs       []sandbox.Job
	Steps      [][]sandbox.Step
	Releases   []sandbox.SealedRelease
	Entries    []sandbox.LoggedEntry
	Setting    []byte
}) {
	t.Helper()
	ctx := t.Context()
	var errs [7]error
	out.Statements, errs[0] = s.Statements(ctx, 0)
	out.Plans, errs[1] = s.Artefacts(ctx, "plan")
	out.Datasets, errs[2] = s.Datasets(ctx)
	out.Jobs, errs[3] = s.Jobs(ctx, sandbox.JobFilter{})
	out.Entries, errs[4] = s.Entries(ctx, sandbox.EntryFilter{})
	out.Setting, errs[5] = s.Setting(ctx, "a")
	out.Pending, errs[6] = s.Pending(ctx)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for _, j := range out.Jobs {
		steps, err := s.Steps(ctx, j.ID)
		if err != nil {
			t.Fatal(err)
		}
		out.Steps = append(out.Steps, steps)
		if r, err := s.Release(ctx, j.ID); err == nil {
			out.Releases = append(out.Releases, r)
		}
	}
	return out
}

func TestSaveAndLoad(t *testing.T) { savesAndLoads(t, sqliteStores) }

func sqliteStores(t *testing.T) *db.DB { return open(t, filepath.Join(t.TempDir(), "lab.db")) }

// savesAndLoads takes records out of a store and into another of its kind and one of SQLite.
func savesAndLoads(t *testing.T, empty func(*testing.T) *db.DB) {
	s := empty(t)
	fillStore(t, s)
	want := contents(t, s)
	path := filepath.Join(t.TempDir(), "saved.db")
	if err := s.SaveTo(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveTo(t.Context(), path); err == nil {
		t.Error("a backup was overwritten")
	}
	for _, into := range []*db.DB{empty(t), sqliteStores(t)} {
		if err := into.LoadFrom(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, contents(t, into)); diff != "" {
			t.Errorf("loaded (-want +got)\n%s", diff)
		}
		if err := into.LoadFrom(t.Context(), path); !errors.Is(err, sandbox.ErrConflict) {
			t.Errorf("loading into a store with records gives %v", err)
		}
		// Numbers go on where they were, and the job that was planned is driven.
		seq, err := into.AppendStatement(t.Context(), dbtest.Signed("consent", `{"c":1}`, "gu"), time.Now())
		if err != nil || seq <= want.Statements[len(want.Statements)-1].Seq {
			t.Errorf("the next statement has place %d, %v", seq, err)
		}
		serve(t, into, len(want.Jobs), []*db.Queue{into.Queue(quick)}, walk)
	}
	if err := empty(t).LoadFrom(t.Context(), filepath.Join(t.TempDir(), "none.db")); err == nil {
		t.Error("a file that is not there was loaded")
	}
}
