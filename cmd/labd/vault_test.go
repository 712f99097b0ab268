package main

import (
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/signer"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db/pgtest"
)

// A lab of services whose custodians have Vaults of their own, one of them OpenBao, and whose labd has its signing keys,
// data keys and the way to its PostgreSQL in another. No signing key is in a file.
func TestServicesOnVaults(t *testing.T) {
	servers := map[string]*vaulttest.Server{}
	cfg := map[string]vault.Config{}
	for name, kind := range map[string]vaulttest.Kind{"custodian-bureau": vaulttest.Vault, "custodian-cyber": vaulttest.Vault, "custodian-notary": vaulttest.OpenBao} {
		servers[name] = vaulttest.Start(t, kind)
		cfg[name] = brief(servers[name].Custodian("cust"))
	}
	own := vaulttest.Start(t, vaulttest.Vault)
	servers["lab"], cfg["lab"] = own, brief(own.ControlPlane())
	dsn := pgtest.Start(t).Database(t)
	own.Root(http.MethodPost, cfg["lab"].KV+"/data/labd", map[string]any{"data": map[string]any{"dsn": dsn}}, nil)
	c := clustertest.StartMoved(t, hometest.Options{Rows: 200, Vaults: cfg}, "vault:"+cfg["lab"].KV+"/labd#dsn", nil)

	for _, pattern := range []string{"labd/l*.key", "labd/*.pem", "labd/*.db", "custodian-*/identity.key", "custodian-*/keyring"} {
		if found, err := filepath.Glob(filepath.Join(c.Dir, pattern)); err != nil || len(found) > 0 {
			t.Errorf("in files: %v, %v", found, err)
		}
	}
	r, auditor := c.Person(hometest.Analyst), c.Person("zhao.min")
	req, sign := request(t, c, "SELECT health, COUNT(*), AVG(mdvis) FROM health GROUP BY health")
	released := func(what string) {
		t.Helper()
		job, err := r.Submit(t.Context(), req, sign)
		if err == nil {
			job, err = r.Run(t.Context(), job.ID, nil)
		}
		if err != nil || job.State != sandbox.Released {
			t.Fatalf("%s the job is %s: %s, %v", what, job.State, job.Reason, err)
		}
	}
	released("at first")

	// While labd's Vault is away nothing is signed and nothing goes into the log; callers hear why. Then it goes on.
	trouble := func(what string, want error) {
		t.Helper()
		_, before, err := auditor.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if job, err := r.Submit(t.Context(), req, sign); code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want.Error()) || strings.Contains(err.Error(), own.Address) {
			t.Errorf("with the Vault %s a job is %s: %v", what, job.State, err)
		}
		if _, after, err := auditor.Checkpoint(t.Context()); err != nil || after != before {
			t.Errorf("with the Vault %s the log goes from %d to %d entries, %v", what, before.Size, after.Size, err)
		}
	}
	own.Seal()
	trouble("sealed", vault.ErrSealed)
	own.Unseal()
	released("after the seal")
	own.DisableAudit()
	trouble("without audit device", vault.ErrNoAudit)
	own.EnableAudit()
	released("with an audit device again")
	own.Kill()
	trouble("killed", vault.ErrUnreachable)

	// labd starts without its Vault, and waits for it.
	c.Stop(clustertest.Labd)
	c.Begin(clustertest.Labd)
	c.Logs(clustertest.Labd, "waiting for the vault")
	own.Restart() // sealed at first
	own.Unseal()
	c.Ready()
	released("after a start without Vault")

	custodians := maps.Clone(cfg)
	delete(custodians, "lab")
	d, err := r.Dataset(t.Context(), hometest.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string][]byte{}
	for name := range custodians {
		texts["log of "+name] = []byte(c.Log(name))
	}
	texts["log of labd"] = []byte(c.Log(clustertest.Labd))
	for name, s := range servers {
		if texts["audit file of "+name], err = os.ReadFile(s.Audit); err != nil {
			t.Fatal(err)
		}
	}
	hometest.NotIn(t, hometest.Secrets(t, custodians, *d.Keyset, d.KeysetDigest), texts)

	// A key that is not the roster's any more signs nothing, and labd says so instead of starting.
	c.Stop(clustertest.Labd)
	own.Root(http.MethodPost, cfg["lab"].Transit+"/keys/log/rotate", nil, nil)
	c.Begin(clustertest.Labd)
	if err := c.Ended(clustertest.Labd); !errors.Is(err, signer.ErrKey) {
		t.Errorf("with another key in the Vault labd ends with %v", err)
	}
}

func brief(cfg vault.Config) vault.Config {
	cfg.Patience = 2 * time.Second
	return cfg
}
