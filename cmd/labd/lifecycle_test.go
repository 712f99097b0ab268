package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/client"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/plan"
)

func eventually(t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		done, err := ok()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not come about: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// pieces counts what a custodian's keyring holds.
func pieces(t *testing.T, c *clustertest.Cluster, name string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(c.Dir, name, "keyring", "*.wrapped"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// files counts the blobs in a folder of a part.
func files(t *testing.T, dir string) (n int) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() {
			n++
		}
	}
	return n
}

func replaceDir(t *testing.T, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

// ask submits a query and drives it to its end.
func ask(t *testing.T, c *clustertest.Cluster, query string) (sandbox.Job, error) {
	t.Helper()
	req, sign := request(t, c, query)
	r := c.Person(hometest.Analyst)
	job, err := r.Submit(t.Context(), req, sign)
	if err != nil {
		return job, err
	}
	return r.Run(t.Context(), job.ID, nil)
}

const custodians = 3

func names(c *clustertest.Cluster) (out []string) {
	for name := range c.Custodians {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// entries counts the log's entries of a type.
func entries(t *testing.T, c *clustertest.Cluster, kind string) (n int) {
	t.Helper()
	a := c.Person("zhao.min")
	_, cp, err := a.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for rec, err := range a.Entries(t.Context(), 0, cp.Size) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Entry.Type == kind {
			n++
		}
	}
	return n
}

// Art. 19 through the services: ordered, carried out where it can be, waiting for the custodian that is away, certified when
// it is back; and nothing that is put back afterwards brings the data back.
func TestDisposal(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{}, nil)
	if _, err := ask(t, c, query); err != nil {
		t.Fatal(err)
	}
	for _, name := range names(c) {
		c.Stop(name)
	}
	c.Stop(clustertest.Labd)
	backup := t.TempDir()
	replaceDir(t, c.Dir, backup)
	away := names(c)[custodians-1]
	for _, name := range names(c)[:custodians-1] {
		c.Begin(name)
	}
	c.Begin(clustertest.Labd)
	c.Ready()

	steward := c.Person(hometest.Steward)
	if _, err := steward.Disposal(t.Context(), hometest.Dataset); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("a dataset in use has a disposal: %v", err)
	}
	// Who may not. The table stops other roles, the order's signatures everybody else.
	if _, err := c.Person(hometest.Analyst).OrderDisposal(t.Context(), enclave.Signed{Body: []byte{}, Sigs: []canon.Signature{}}); code(err) != codes.PermissionDenied {
		t.Errorf("an analyst orders a disposal: %v", err)
	}
	if _, err := steward.DisposeDataset(t.Context(), hometest.Dataset, hometest.Steward, "boredom", "r"); err == nil {
		t.Error("a cause that art. 19 does not have is taken")
	}

	d, err := steward.DisposeDataset(t.Context(), hometest.Dataset, hometest.Steward, enclave.CauseAchieved, "项目验收[2026]8")
	if err != nil {
		t.Fatal(err)
	}
	if !d.InForce || d.Receipt != nil || len(d.Waiting) != 1 || !strings.Contains(d.Waiting[0], away) || strings.Contains(d.Waiting[0], "127.0.0.1") {
		t.Errorf("with one custodian away the disposal is %+v", d)
	}
	for _, name := range names(c) {
		if has := pieces(t, c, name); (has > 0) != (name == away) {
			t.Errorf("%s has %d pieces", name, has)
		}
		if copies := files(t, filepath.Join(c.Dir, name, "mirror")); (copies > 0) != (name == away) {
			t.Errorf("%s has copies of %d blobs", name, copies)
		}
	}
	if n := files(t, filepath.Join(c.Dir, clustertest.Labd, "blobs")); n != 0 {
		t.Errorf("labd has %d blobs", n)
	}
	_, err = ask(t, c, query)
	var why *plan.RefusedError
	if !errors.As(err, &why) {
		t.Errorf("a job on a dataset that is disposed of: %v", err)
	}
	if _, err := steward.Refresh(t.Context(), hometest.Dataset, hometest.Steward, 0); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("refreshing it: %v", err)
	}

	// The one that was away comes back, and nobody asks: labd goes on by itself.
	c.Begin(away)
	eventually(t, "the certificate", func() (bool, error) {
		d, err = steward.Disposal(t.Context(), hometest.Dataset)
		return err == nil && d.Receipt != nil, err
	})
	checked, err := d.Receipt.Check(steward.RootKey(), client.LogKeys)
	if err != nil || len(checked.Certificate.Destructions) != custodians || len(checked.Certificate.Blobs) == 0 {
		t.Fatalf("certificate %+v: %v", checked, err)
	}
	if pieces(t, c, away) != 0 {
		t.Errorf("%s still has pieces", away)
	}
	// Asked again, it is the same certificate, and one entry of each kind.
	again, err := steward.DisposeDataset(t.Context(), hometest.Dataset, hometest.Steward, enclave.CauseWithdrawn, "again")
	if err != nil || again.Receipt == nil || again.Receipt.Certificate.Digest() != d.Receipt.Certificate.Digest() {
		t.Errorf("ordered again: %+v, %v", again, err)
	}
	for kind, want := range map[string]int{enclave.EntryDisposal: 1, enclave.EntryDestruction: custodians, enclave.EntryCertificate: 1} {
		if n := entries(t, c, kind); n != want {
			t.Errorf("%d entries of type %s, want %d", n, kind, want)
		}
	}
	forgeReceipts(t, steward.RootKey(), d.Receipt)

	// Put back: blobs and database at once, then one custodian after another.
	c.Stop(clustertest.Labd)
	replaceDir(t, filepath.Join(backup, clustertest.Labd, "blobs"), filepath.Join(c.Dir, clustertest.Labd, "blobs"))
	for _, f := range []string{"lab.db", "lab.db-wal", "lab.db-shm"} {
		if err := os.Remove(filepath.Join(c.Dir, clustertest.Labd, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(backup, clustertest.Labd, f)); err == nil {
			if err := os.WriteFile(filepath.Join(c.Dir, clustertest.Labd, f), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Begin(clustertest.Labd)
	c.Ready()
	refused := func(what, query string) {
		t.Helper()
		job, err := ask(t, c, query)
		if err == nil || job.State != sandbox.Refused || !strings.Contains(err.Error(), "disposed of") {
			t.Errorf("%s put back: job is %s, %v", what, job.State, err)
		}
	}
	refused("blobs and database", query)
	for i, name := range names(c) {
		c.Stop(name)
		replaceDir(t, filepath.Join(backup, name), filepath.Join(c.Dir, name))
		if pieces(t, c, name) == 0 {
			t.Fatal("the backup is none")
		}
		c.Begin(name)
		eventually(t, name+" destroying what came back", func() (bool, error) { return pieces(t, c, name) == 0, nil })
		refused(name, fmt.Sprintf("SELECT COUNT(*) AS n%d FROM health", i))
	}
	// labd has lost the order with its database. The steward gives it again, and it ends as before.
	if d, err = steward.DisposeDataset(t.Context(), hometest.Dataset, hometest.Steward, enclave.CauseAchieved, "项目验收[2026]8"); err != nil || d.Receipt == nil {
		t.Fatalf("ordered once more: %+v, %v", d, err)
	}
	if n := files(t, filepath.Join(c.Dir, clustertest.Labd, "blobs")); n != 0 {
		t.Errorf("labd has %d blobs that came back", n)
	}
}

// forgeReceipts alters a receipt in every way that matters; none verifies.
func forgeReceipts(t *testing.T, root []byte, good *enclave.DisposalReceipt) {
	t.Helper()
	for what, forge := range map[string]func(r *enclave.DisposalReceipt){
		"another format":           func(r *enclave.DisposalReceipt) { r.Format = enclave.KindBundle },
		"a proof too few":          func(r *enclave.DisposalReceipt) { r.Proofs = r.Proofs[1:] },
		"proofs in another order":  func(r *enclave.DisposalReceipt) { slices.Reverse(r.Proofs) },
		"the same proof twice":     func(r *enclave.DisposalReceipt) { r.Proofs[1] = r.Proofs[2] },
		"another certificate":      func(r *enclave.DisposalReceipt) { r.Certificate.Body = append(slices.Clone(r.Certificate.Body), ' ') },
		"no roster of the root's":  func(r *enclave.DisposalReceipt) { r.Roster.Sigs = []canon.Signature{} },
		"a checkpoint cut short":   func(r *enclave.DisposalReceipt) { r.Proofs[0].Checkpoint = r.Proofs[0].Checkpoint[:40] },
		"an entry about something": func(r *enclave.DisposalReceipt) { r.Proofs[0].Entry = r.Proofs[1].Entry },
	} {
		r := *good
		r.Proofs = slices.Clone(good.Proofs)
		forge(&r)
		if _, err := r.Check(root, client.LogKeys); err == nil {
			t.Errorf("a receipt with %s verifies", what)
		}
	}
	other := slices.Clone(root)
	other[0] ^= 1
	if _, err := good.Check(other, client.LogKeys); err == nil {
		t.Error("a receipt verifies under another root key")
	}
}

// Without the owner, two officials end a dataset: what one of them does alone changes nothing.
func TestDisposalByOfficials(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{}, nil)
	first, second := c.Person("wang.fang"), c.Person("li.jun")
	order := func(who string, cause, reason string) (*lab.Disposal, error) {
		return c.Person(who).DisposeDataset(t.Context(), hometest.Dataset, who, cause, reason)
	}
	d, err := order("wang.fang", enclave.CauseExpired, "到期未续")
	if err != nil || d.InForce || d.Receipt != nil {
		t.Fatalf("one official: %+v, %v", d, err)
	}
	if again, err := order("wang.fang", enclave.CauseExpired, "到期未续"); err != nil || again.InForce || again.Order.Digest() != d.Order.Digest() {
		t.Errorf("the same official again: %+v, %v", again, err)
	}
	if _, err := ask(t, c, query); err != nil {
		t.Errorf("a job while one official asks: %v", err)
	}
	if _, err := order("li.jun", enclave.CauseWithdrawn, "another"); !errors.Is(err, sandbox.ErrConflict) || !strings.Contains(err.Error(), "到期未续") {
		t.Errorf("a second official with another reason: %v", err)
	}
	// Signatures put together by hand are not taken: each hands in the own.
	id, err := second.Identity("li.jun")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := id.Sign(d.Order.Kind, d.Order.Body)
	if err != nil {
		t.Fatal(err)
	}
	both := d.Order
	both.Sigs = append(slices.Clone(both.Sigs), sig)
	if _, err := second.OrderDisposal(t.Context(), both); !errors.Is(err, operators.ErrSignature) {
		t.Errorf("two signatures from one hand: %v", err)
	}
	if d, err = order("li.jun", enclave.CauseExpired, "到期未续"); err != nil || d.Receipt == nil {
		t.Fatalf("the second official: %+v, %v", d, err)
	}
	checked, err := d.Receipt.Check(first.RootKey(), client.LogKeys)
	if err != nil || len(checked.Certificate.Order.Sigs) != 2 || checked.Order.By != "wang.fang" {
		t.Errorf("certificate %+v: %v", checked, err)
	}
	for kind, want := range map[string]int{enclave.EntryDisposalRequest: 1, enclave.EntryDisposal: 1, enclave.EntryCertificate: 1} {
		if n := entries(t, c, kind); n != want {
			t.Errorf("%d entries of type %s, want %d", n, kind, want)
		}
	}
}
