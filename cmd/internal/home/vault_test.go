package home_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// vaulted is a lab whose custodians have their keys in Vaults of their own: two of HashiCorp's, one OpenBao.
type vaulted struct {
	dir     string
	servers map[string]*vaulttest.Server
	cfg     map[string]vault.Config
	log     bytes.Buffer // everything that the lab's parts logged
	opts    home.Options
}

func newVaulted(t *testing.T) *vaulted {
	t.Helper()
	w := &vaulted{dir: filepath.Join(t.TempDir(), "lab"), servers: map[string]*vaulttest.Server{}, cfg: map[string]vault.Config{}}
	for name, kind := range map[string]vaulttest.Kind{"custodian-bureau": vaulttest.Vault, "custodian-cyber": vaulttest.Vault, "custodian-notary": vaulttest.OpenBao} {
		w.servers[name] = vaulttest.Start(t, kind)
		w.cfg[name] = w.servers[name].Custodian("cust")
		w.cfg[name] = patient(w.cfg[name], 3*time.Second)
	}
	w.cfg["lab"] = patient(w.servers["custodian-bureau"].ControlPlane(), 3*time.Second)
	worker := t.TempDir()
	if err := hometest.Build(t.Context(), worker, "worker"); err != nil {
		t.Fatal(err)
	}
	w.opts = home.Options{Worker: filepath.Join(worker, "worker"), Wait: time.Second,
		Logger: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if err := hometest.Make(t.Context(), w.dir, hometest.Options{Rows: 200, Worker: w.opts.Worker, Vaults: w.cfg}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *vaulted) open(t *testing.T) *home.Home {
	t.Helper()
	h, err := home.Open(t.Context(), w.dir, w.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLab(t, h) })
	return h
}

// submit submits a query and takes it as far as it goes.
func submit(t *testing.T, h *home.Home, query string) (sandbox.Job, error) {
	t.Helper()
	ctx := t.Context()
	id, err := h.Identity(hometest.Analyst)
	if err != nil {
		t.Fatal(err)
	}
	scenario, _, err := h.Scenario(ctx, hometest.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	job, err := h.Submit(ctx, lab.Request{Analyst: hometest.Analyst, Scenario: scenario, Query: query, EpsilonMicro: 500_000},
		func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
	if err != nil {
		return job, err
	}
	return h.Run(ctx, job.ID, nil)
}

const twoStages = "SELECT health, COUNT(*), AVG(mdvis) FROM health GROUP BY health"

func TestLabOnVaults(t *testing.T) {
	w := newVaulted(t)
	h := w.open(t)
	before := map[string]int64{}
	for name, c := range h.Vaults {
		before[name] = c.Sent()
	}
	job, err := submit(t, h, twoStages)
	if err != nil || job.State != sandbox.Released {
		t.Fatalf("the job is %s: %s, %v", job.State, job.Reason, err)
	}
	for name, c := range h.Vaults {
		n := c.Sent() - before[name]
		t.Logf("requests of %s to its Vault for one release of two stages: %d", name, n)
		if n == 0 {
			t.Errorf("%s released without its Vault", name)
		}
	}
	for name := range w.servers {
		for _, file := range []string{"identity.key", "keyring"} {
			if _, err := os.Stat(filepath.Join(w.dir, "custodians", name, file)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s has %s in the lab's folder: %v", name, file, err)
			}
		}
	}

	// A Vault that is sealed, and one without an audit device: the other two custodians go on; with two of them away the
	// job waits, and ends once they are back.
	w.servers["custodian-notary"].DisableAudit()
	if job, err = submit(t, h, "SELECT COUNT(*) FROM health"); err != nil || job.State != sandbox.Released {
		t.Errorf("with one custodian away the job is %s: %s, %v", job.State, job.Reason, err)
	}
	w.servers["custodian-cyber"].Seal()
	var quorum *release.QuorumError
	job, err = submit(t, h, "SELECT coinsurance, COUNT(*) FROM health GROUP BY coinsurance")
	if !errors.As(err, &quorum) || !errors.Is(err, vault.ErrSealed) || !errors.Is(err, vault.ErrNoAudit) || job.State != sandbox.Opening {
		t.Errorf("with two custodians away the job is %s, %v", job.State, err)
	}
	w.servers["custodian-notary"].EnableAudit()
	w.servers["custodian-cyber"].Unseal()
	if job, err = h.Run(t.Context(), job.ID, nil); err != nil || job.State != sandbox.Released {
		t.Errorf("with all custodians back the job is %s: %s, %v", job.State, job.Reason, err)
	}
	if _, err := h.Rotate(t.Context(), hometest.Dataset); err != nil {
		t.Error(err)
	}
	if _, err := h.Refresh(t.Context(), hometest.Dataset, hometest.Steward, 0); err != nil {
		t.Error(err)
	}
	if job, err = submit(t, h, twoStages); err != nil || job.State != sandbox.Released {
		t.Errorf("after a refresh the job is %s: %s, %v", job.State, job.Reason, err)
	}
	w.noKeyIsLogged(t, h)
}

// noKeyIsLogged compares everything that was logged with every piece, what PRF keys gave, and credentials.
func (w *vaulted) noKeyIsLogged(t *testing.T, h *home.Home) {
	t.Helper()
	d, err := h.Dataset(t.Context(), hometest.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	custodians := maps.Clone(w.cfg)
	delete(custodians, "lab")
	texts := map[string][]byte{"the lab's log": w.log.Bytes()}
	for name, s := range w.servers {
		for _, file := range []string{s.Audit, s.LogFile()} {
			if texts[name+" "+filepath.Base(file)], err = os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	hometest.NotIn(t, hometest.Secrets(t, custodians, *d.Keyset, d.Dealing), texts)
}

// After a disposal no backup brings the data back: not the database and the blobs, not any one custodian's Vault.
func TestDisposalOutlivesBackups(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing after another, with three Vaults")
	}
	w := newVaulted(t)
	h := w.open(t)
	if job, err := submit(t, h, twoStages); err != nil || job.State != sandbox.Released {
		t.Fatalf("the job is %s: %s, %v", job.State, job.Reason, err)
	}
	d, err := h.Dataset(t.Context(), hometest.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range mustBlobs(t, h) {
		data, err := os.ReadFile(h.Blobs.Path(b))
		if err != nil || bytes.Contains(data, []byte("YZBLOB01")) {
			t.Errorf("blob %s lies as it is: %v", b.Short(), err)
		}
	}
	closeLab(t, h)
	backup := filepath.Join(t.TempDir(), "lab")
	if err := os.CopyFS(backup, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	for _, s := range w.servers {
		s.Backup()
	}
	h = w.open(t)
	end, err := h.DisposeDataset(t.Context(), hometest.Dataset, hometest.Steward, enclave.CauseAchieved, "项目验收")
	if err != nil || end.Receipt == nil {
		t.Fatalf("%+v, %v", end, err)
	}
	checked, err := end.Receipt.Check(h.RootKey(), release.LogKeys)
	if err != nil {
		t.Fatal(err)
	}
	if cert := checked.Certificate; len(cert.Destructions) != 3 || len(cert.Blobs) == 0 || cert.DataKeys != 1 {
		t.Errorf("the certificate has %d destructions, %d blobs", len(cert.Destructions), len(cert.Blobs))
	}
	closeLab(t, h)

	// The control plane, blobs and everything else in the folder, put back as of before. The log with it: a lab that
	// never heard of a disposal. Its custodians' Vaults have nothing any more.
	if err := errors.Join(os.RemoveAll(w.dir), os.CopyFS(w.dir, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	back := w.open(t)
	for _, b := range mustBlobs(t, back) {
		if err := back.Blobs.Verify(t.Context(), b); !errors.Is(err, enclave.ErrNotFound) {
			t.Errorf("blob %s that was put back gives %v", b.Short(), err)
		}
	}
	closeLab(t, back)
	fails := func(t *testing.T) {
		t.Helper()
		h := w.open(t)
		defer closeLab(t, h)
		job, err := submit(t, h, "SELECT COUNT(*) FROM health")
		if err == nil && job.State == sandbox.Released {
			t.Error("the data is back")
		}
		t.Logf("%s: %v %s", job.State, err, job.Reason)
	}
	t.Run("the lab's folder", fails)
	for name, s := range w.servers {
		t.Run("and "+name, func(t *testing.T) {
			s.Restore()
			id := keys.PieceID{Keyset: d.Dealing}
			held := 0
			for id.Piece = range 3 {
				c, err := vault.New(w.cfg[name])
				if err != nil {
					t.Fatal(err)
				}
				if _, err := transit.New(c).Piece(t.Context(), id); err == nil {
					held++
				}
			}
			if held != 2 {
				t.Fatalf("the backup gives %d pieces: it is no backup", held)
			}
			fails(t)
			s.Root(http.MethodPost, "transit-cust/keys/piece-"+hex.EncodeToString(d.Dealing[:16])+"/config", map[string]any{"deletion_allowed": true}, nil)
			s.Root(http.MethodDelete, "transit-cust/keys/piece-"+hex.EncodeToString(d.Dealing[:16]), nil, nil)
		})
	}
}

// A custodian's Vault need not be up when the lab is opened.
func TestOpenWithoutVault(t *testing.T) {
	w := newVaulted(t)
	for _, s := range w.servers {
		s.Kill()
	}
	h := w.open(t)
	if _, err := h.Dataset(context.WithoutCancel(t.Context()), hometest.Dataset); err != nil {
		t.Error(err)
	}
}

func patient(cfg vault.Config, d time.Duration) vault.Config {
	cfg.Patience = d
	return cfg
}

func mustBlobs(t *testing.T, h *home.Home) []enclave.Digest {
	t.Helper()
	all, err := h.Blobs.List()
	if err != nil || len(all) == 0 {
		t.Fatalf("%d blobs, %v", len(all), err)
	}
	return all
}
