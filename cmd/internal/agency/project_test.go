package agency

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := vaulttest.Clean(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// someAgency is an agency with its steward, whose keys are in a Vault if one is given.
func someAgency(t *testing.T, body, steward string, at *vault.Config) *Agency {
	t.Helper()
	id, err := keys.NewIdentity(steward)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if at != nil {
		own := *at
		for path, name := range map[*string]string{&own.RoleIDFile: "role-id", &own.SecretIDFile: "secret-id"} { // the agency's own copies, by relative names
			data, err := os.ReadFile(*path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
			*path = name
		}
		data, err := yaml.Marshal(own)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, VaultFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ring, err := openKeyring(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &Agency{cfg: Config{Dir: dir, Clock: time.Now}, steward: id, ring: ring,
		party: operators.Party{Name: steward, Role: operators.RoleSteward, Body: body, Verify: id.Verify(), HPKE: id.HPKE()}}
}

// A project key that was destroyed at its agencies cannot be had again: not from the keyring, not by a message that
// brought it once, not under the same name.
func TestProjectKeyIsDestroyed(t *testing.T) {
	s := vaulttest.Start(t, vaulttest.Vault)
	cfg := s.Agency("health")
	cfg.Patience = time.Second
	first, second := someAgency(t, "区公安分局", "he.ping", nil), someAgency(t, "区卫生健康委", "gu.ling", &cfg)
	ctx := t.Context()
	if err := first.NewProject(ctx, "elderly"); err != nil {
		t.Fatal(err)
	}
	if err := first.NewProject(ctx, "elderly"); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("a second key of one project gives %v", err)
	}
	message, err := first.GiveProject(ctx, "elderly", second.party)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.TakeProject(ctx, "elderly", message); err != nil {
		t.Fatal(err)
	}
	a, err1 := first.projectKey(ctx, "elderly")
	b, err2 := second.projectKey(ctx, "elderly")
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(a, b) {
		t.Fatalf("the agencies do not have one key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(second.cfg.Dir, "keyring")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the agency with a Vault has a keyring in its folder: %v", err)
	}
	for _, agency := range []*Agency{first, second} {
		if err := agency.DestroyProject(ctx, "other"); !errors.Is(err, sandbox.ErrNotFound) {
			t.Errorf("destroying the key of no project gives %v", err)
		}
	}
	s.Seal() // a Vault that is away destroys nothing, and says so
	if err := second.DestroyProject(ctx, "elderly"); !errors.Is(err, vault.ErrSealed) {
		t.Errorf("a sealed Vault gives %v", err)
	}
	s.Unseal()
	for _, agency := range []*Agency{first, second} {
		for range 2 { // it can be repeated
			if err := agency.DestroyProject(ctx, "elderly"); err != nil {
				t.Fatal(err)
			}
		}
		if key, err := agency.projectKey(ctx, "elderly"); !errors.Is(err, sandbox.ErrConflict) || key != nil || !strings.Contains(err.Error(), "for good") {
			t.Errorf("the destroyed key of %s has %d bytes, %v", agency.party.Body, len(key), err)
		}
		if err := agency.NewProject(ctx, "elderly"); !errors.Is(err, sandbox.ErrConflict) {
			t.Errorf("a new key under the old name gives %v", err)
		}
	}
	if err := second.TakeProject(ctx, "elderly", message); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("the message that brought the key gives %v", err)
	}
	if _, err := first.GiveProject(ctx, "elderly", second.party); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("giving the destroyed key gives %v", err)
	}
	// Nothing in the agency's folder or in what its Vault logged has the key's bytes.
	err = filepath.WalkDir(first.cfg.Dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, a) {
			t.Errorf("%s has the key", path)
		}
		return err
	})
	audited, err2 := os.ReadFile(s.Audit)
	if err := errors.Join(err, err2); err != nil || len(audited) == 0 || bytes.Contains(audited, a) {
		t.Errorf("the audit file of %d bytes: %v", len(audited), err)
	}
}
