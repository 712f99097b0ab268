package main

import (
	"context"
	"database/sql"
	"encoding/json"
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
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
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

// Rotation, refresh and replacement over the wire: ciphertexts stay, pieces go, jobs of before end with a reason.
func TestKeyLifeCycle(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{}, nil)
	steward, auditor := c.Person(hometest.Steward), c.Person("zhao.min")
	if _, err := ask(t, c, query); err != nil {
		t.Fatal(err)
	}

	// Wrapping keys: each custodian's own people rotate them, and nobody else.
	for _, name := range names(c) {
		own, err := desk.OpenRemote(filepath.Join(c.Dir, name), "", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		was, err := os.ReadFile(filepath.Join(c.Dir, name, "keyring", "wrapping.key"))
		if err != nil {
			t.Fatal(err)
		}
		rotated, err := own.Rotate(t.Context(), hometest.Dataset)
		if err != nil || len(rotated) != 1 || rotated[0] != name {
			t.Errorf("%s rotates %q: %v", name, rotated, err)
		}
		if is, err := os.ReadFile(filepath.Join(c.Dir, name, "keyring", "wrapping.key")); err != nil || string(is) == string(was) {
			t.Errorf("%s still wraps under the same key: %v", name, err)
		}
		if err := own.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := steward.Rotate(t.Context(), hometest.Dataset); !errors.Is(err, operators.ErrRole) {
		t.Errorf("a steward rotates: %v", err)
	}
	other := names(c)[0]
	info, err := steward.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(info.Custodians[other], source(t, c, "custodian", names(c)[1]).Client(pki.Name{Role: "custodian", Party: other}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before, err := steward.Dataset(t.Context(), hometest.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	if err := custodian.New(other, conn).Rotate(t.Context(), before.KeysetDigest); err == nil || !strings.Contains(err.Error(), "may not rotate") {
		t.Errorf("a custodian rotates another's keys: %v", err)
	}

	// A job waits for custodians while the key is refreshed: it ends with a reason, uncharged, and the question is asked again.
	for _, name := range names(c)[1:] {
		c.Stop(name)
	}
	r := c.Person(hometest.Analyst)
	req, sign := request(t, c, "SELECT health, COUNT(*) AS n FROM health GROUP BY health")
	pending, err := r.Submit(t.Context(), req, sign)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the job waiting for custodians", func() (bool, error) {
		j, err := r.Job(t.Context(), pending.ID)
		return strings.HasPrefix(j.Stage, "waiting"), err
	})
	if _, err := steward.Refresh(t.Context(), hometest.Dataset, hometest.Steward, 0); err == nil || !strings.Contains(err.Error(), "all custodians or to none") {
		t.Errorf("refreshing while custodians are away: %v", err)
	}
	if d, err := steward.Dataset(t.Context(), hometest.Dataset); err != nil || d.Keyset.Epoch != 1 {
		t.Errorf("a refresh that failed is in force: %+v, %v", d, err)
	}
	c.Stop(clustertest.Labd) // so that the job is not opened between their return and the refresh
	for _, name := range names(c)[1:] {
		c.Begin(name)
	}
	c.Begin(clustertest.Labd)
	c.Ready()
	ks, err := steward.Refresh(t.Context(), hometest.Dataset, hometest.Steward, 0)
	if err != nil || ks.Epoch != 2 {
		t.Fatalf("refreshed to %+v: %v", ks, err)
	}
	ended, err := r.Run(t.Context(), pending.ID, nil)
	switch ended.State {
	case sandbox.Released: // it was opened in the moment before
	case sandbox.Refused:
		if !errors.Is(err, refusal.ErrReplaced) && !strings.Contains(ended.Reason, "replaced by a refresh") {
			t.Errorf("the job that waited is refused: %v, %s", err, ended.Reason)
		}
	default:
		t.Errorf("the job that waited is %s: %v", ended.State, err)
	}
	req.ID = ""
	if job, err := ask(t, c, req.Query); err != nil || job.State != sandbox.Released {
		t.Errorf("asked again it is %s: %v", job.State, err)
	}
	if job, err := ask(t, c, query); err != nil || job.State != sandbox.Released {
		t.Errorf("what was sealed before the refresh: %s, %v", job.State, err)
	} else {
		recheck(t, c, job, custodians*custodians)
	}
	for _, name := range names(c) {
		if n := pieces(t, c, name); n != 2 {
			t.Errorf("%s has %d pieces, want its two of the refresh", name, n)
		}
	}
	found, err := auditor.Fsck(t.Context())
	if err != nil || found.Keysets != 2 || !found.Whole || found.Releases < 2 {
		t.Errorf("audit: %+v, %v", found, err)
	}
	replaced(t, c)
}

// recheck has all custodians recompute a release, as the auditor.
func recheck(t *testing.T, c *clustertest.Cluster, job sandbox.Job, want int) {
	t.Helper()
	found, err := c.Person("zhao.min").Recheck(t.Context(), job.ID)
	if err != nil || len(found) != want {
		t.Errorf("%d comparisons, want %d: %v", len(found), want, err)
	}
	for _, f := range found {
		if f.Err != nil {
			t.Errorf("%s on the record of %s: %v", f.By, f.Of, f.Err)
		}
	}
}

// replaced puts a new custodian in the place of one: its own body makes its keys, an official signs the roster, the
// daemons are told, the steward deals again.
func replaced(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	old := names(c)[custodians-1]
	const fresh = "custodian-archive"
	dir := filepath.Join(c.Dir, fresh)
	p, err := home.NewCustodian(t.Context(), dir, fresh, "")
	if err != nil {
		t.Fatal(err)
	}
	p.Body = "区档案馆"
	official := c.Person("wang.fang")
	if err := official.ReplaceCustodian(t.Context(), old, p); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("without the root key: %v", err)
	}
	client, err := os.OpenFile(filepath.Join(c.Folder("wang.fang"), "client.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(client, "root_key: %q\n", filepath.Join(filepath.Dir(c.Dir), "lab", "people", "root.key"))
	if err := errors.Join(err, client.Close()); err != nil {
		t.Fatal(err)
	}
	official = c.Person("wang.fang")
	if err := official.ReplaceCustodian(t.Context(), "nobody", p); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("replacing nobody: %v", err)
	}
	if err := official.ReplaceCustodian(t.Context(), old, operators.Party{Name: fresh, Body: p.Body}); !errors.Is(err, operators.ErrInvalid) {
		t.Errorf("a custodian without keys: %v", err)
	}
	if err := official.ReplaceCustodian(t.Context(), old, p); err != nil {
		t.Fatal(err)
	}
	// The old one, as it was: its pieces are of no use once the key is dealt again.
	leaver := t.TempDir()
	c.Stop(old)
	replaceDir(t, filepath.Join(c.Dir, old), leaver)
	c.Add(t, fresh, old)
	steward := c.Person(hometest.Steward)
	ks, err := steward.Refresh(t.Context(), hometest.Dataset, hometest.Steward, 0)
	if err != nil || ks.Epoch != 3 || !slices.Contains(ks.Custodians, fresh) || slices.Contains(ks.Custodians, old) {
		t.Fatalf("refreshed to %+v: %v", ks, err)
	}
	if n := pieces(t, c, fresh); n != 2 {
		t.Errorf("the new custodian has %d pieces", n)
	}
	// The new one and one of the others open; the old one, started again from its folder, is not let in anywhere.
	stays := names(c)[1] // the first one is new
	c.Stop(stays)
	job, err := ask(t, c, "SELECT COUNT(*) AS n9 FROM health")
	if err != nil || job.State != sandbox.Released {
		t.Fatalf("opened with the new custodian: %s, %v", job.State, err)
	}
	c.Begin(stays)
	recheck(t, c, job, 3*2)
	signed, err := c.Person(hometest.Analyst).SignedRelease(t.Context(), job)
	var rel enclave.Release
	if err == nil {
		err = signed.Open(enclave.KindRelease, &rel)
	}
	if err != nil || !slices.Contains(rel.Custodians, fresh) {
		t.Errorf("released by %q: %v", rel.Custodians, err)
	}
	if _, err := open(t, c, source(t, c, "custodian", old).Client(pki.Name{Role: "lab"})).Info(t.Context()); code(err) != codes.PermissionDenied {
		t.Errorf("the custodian that left is let in: %v", err)
	}
	if _, err := c.Person("zhao.min").Fsck(t.Context()); err != nil {
		t.Error(err)
	}
}

// A lab that shows another log than before, or keeps back what its log announces, is found out from a client's folder, and
// both signed checkpoints stay there.
func TestAuditFindsForks(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{}, nil)
	fsck := func() (*client.Audited, error) { return c.Person("zhao.min").Fsck(t.Context()) }
	first, err := fsck()
	if err != nil || first.Before != 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	backup := t.TempDir()
	c.Stop(clustertest.Labd)
	c.Stop(clustertest.Witness)
	for _, part := range []string{clustertest.Labd, clustertest.Witness} {
		replaceDir(t, filepath.Join(c.Dir, part), filepath.Join(backup, part))
	}
	c.Begin(clustertest.Witness)
	c.Begin(clustertest.Labd)
	c.Ready()
	if _, err := ask(t, c, query); err != nil {
		t.Fatal(err)
	}
	second, err := fsck()
	if err != nil || second.Before != first.Checkpoint.Size || second.Checkpoint.Size <= first.Checkpoint.Size || second.Releases != 1 {
		t.Fatalf("%+v, %v", second, err)
	}
	// Back to before, with the witness, which forgets with it: the client has not.
	c.Stop(clustertest.Labd)
	c.Stop(clustertest.Witness)
	for _, part := range []string{clustertest.Labd, clustertest.Witness} {
		replaceDir(t, filepath.Join(backup, part), filepath.Join(c.Dir, part))
	}
	c.Begin(clustertest.Witness)
	c.Begin(clustertest.Labd)
	c.Ready()
	evidence := func(offered string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(c.Folder("zhao.min"), "log-fork.json"))
		var fork struct{ Seen, Offered string }
		if err == nil {
			err = json.Unmarshal(data, &fork)
		}
		if err != nil || fork.Seen != second.Note || offered != "" && fork.Offered != offered {
			t.Errorf("evidence %+v, %v", fork, err)
		}
	}
	if _, err := fsck(); !errors.Is(err, refusal.ErrLogFork) || !strings.Contains(err.Error(), "were seen before") {
		t.Errorf("a log that went back: %v", err)
	}
	evidence(first.Note)
	// It grows another way, beyond what was seen.
	a := c.Person("zhao.min")
	for i := 0; ; i++ {
		_, cp, err := a.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if cp.Size > second.Checkpoint.Size {
			break
		}
		var why *plan.RefusedError
		if _, err := ask(t, c, fmt.Sprintf("SELECT no%d FROM health", i)); !errors.As(err, &why) {
			t.Fatal(err)
		}
	}
	if _, err := fsck(); !errors.Is(err, refusal.ErrLogFork) || !strings.Contains(err.Error(), "is not the one seen before") {
		t.Errorf("a log that forked: %v", err)
	}
	evidence("")

	// A person who never looked before is shown a whole log, from which a statement is kept back.
	c.Stop(clustertest.Labd)
	store, err := sql.Open("sqlite", filepath.Join(c.Dir, clustertest.Labd, "lab.db"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := store.ExecContext(t.Context(), "DELETE FROM statements WHERE seq = (SELECT MAX(seq) FROM statements)")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%d rows, %v", n, err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	c.Begin(clustertest.Labd)
	c.Ready()
	if _, err := c.Person("wang.fang").Fsck(t.Context()); !errors.Is(err, enclave.ErrLogProof) || !strings.Contains(err.Error(), "which the lab does not show") {
		t.Errorf("a statement that is kept back: %v", err)
	}
}
