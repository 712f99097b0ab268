package transit_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/keystest"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := vaulttest.Clean(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// servers runs a test on Vault and on OpenBao.
func servers(t *testing.T, run func(t *testing.T, s *vaulttest.Server)) {
	t.Parallel() // most of the time goes into waiting for servers
	for name, kind := range map[string]vaulttest.Kind{"vault": vaulttest.Vault, "openbao": vaulttest.OpenBao} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, vaulttest.Start(t, kind))
		})
	}
}

func TestKeyring(t *testing.T) {
	for name, kind := range map[string]vaulttest.Kind{"vault": vaulttest.Vault, "openbao": vaulttest.OpenBao} {
		t.Run(name, func(t *testing.T) {
			keystest.Run(t, func(t *testing.T) (keys.Keyring, func() keys.Keyring) {
				s := vaulttest.Start(t, kind)
				cfg := s.Custodian("cust")
				open := func() keys.Keyring { return transit.New(s.Client(cfg)) }
				return open(), open
			})
		})
	}
}

func randomSecret(t *testing.T, size int) keys.PieceSecret {
	t.Helper()
	s := keys.PieceSecret{Piece: make([]byte, size)}
	for _, b := range [][]byte{s.PRF[:], s.Piece} {
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

var id = keys.PieceID{Keyset: enclave.Digest{7}, Piece: 1}

// Both holders of a piece must derive the same noise, whatever server each of them runs.
func TestHoldersAgreeOnVaultAndOpenBao(t *testing.T) {
	a, b := vaulttest.Start(t, vaulttest.Vault), vaulttest.Start(t, vaulttest.OpenBao)
	secret := randomSecret(t, 100)
	var out [2][32]byte
	for i, s := range []*vaulttest.Server{a, b} {
		ring := transit.New(s.Client(s.Custodian("cust")))
		if err := ring.Import(t.Context(), id, secret); err != nil {
			t.Fatal(err)
		}
		var err error
		if out[i], err = ring.PRF(t.Context(), id, []byte("question")); err != nil {
			t.Fatal(err)
		}
	}
	if out[0] != out[1] || out[0] == [32]byte{} {
		t.Errorf("the holders derive %x and %x", out[0], out[1])
	}
}

// What a custodian's AppRole may not do, it is refused with 403.
func TestLeastPrivilege(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		cfg := s.Custodian("cust")
		other := s.Custodian("other")
		ring := transit.New(s.Client(cfg))
		if err := ring.Import(t.Context(), id, randomSecret(t, 100)); err != nil {
			t.Fatal(err)
		}
		if err := transit.New(s.Client(other)).Import(t.Context(), id, randomSecret(t, 100)); err != nil {
			t.Fatal(err)
		}
		stem := hex.EncodeToString(id.Keyset[:16])
		wrap, prf := "keys/piece-"+stem, "keys/prf-"+stem+"-1"
		own, others := cfg.Transit+"/", other.Transit+"/"
		token := s.Token(cfg)
		if status, _ := s.Call(token, http.MethodGet, own+wrap, nil); status != http.StatusOK {
			t.Fatalf("reading its own wrapping key's settings gives %d", status)
		}
		type m = map[string]any
		for _, c := range []struct {
			method, path string
			in           any
		}{
			{"GET", own + "export/encryption-key/piece-" + stem, nil},
			{"GET", own + "export/hmac-key/prf-" + stem + "-1", nil},
			{"GET", own + "backup/piece-" + stem, nil},
			{"POST", own + wrap + "/config", m{"exportable": true}},
			{"POST", own + wrap + "/config", m{"allow_plaintext_backup": true}},
			{"POST", own + "keys/new", m{"type": "aes256-gcm96", "derived": true, "exportable": true}},
			{"POST", own + "keys/new", m{"type": "rsa-4096"}},
			{"POST", own + prf + "/import", m{"ciphertext": "x", "type": "hmac", "exportable": true}},
			{"POST", own + "encrypt/piece-" + stem, m{"plaintext": "aGVsbG8="}},
			{"DELETE", own + "keys/sign", nil},
			{"POST", own + "keys/sign/config", m{"deletion_allowed": true}},
			{"POST", own + "keys/sign/rotate", nil},
			{"POST", own + "sign/piece-" + stem, m{"input": "aGVsbG8="}},
			{"GET", others + wrap, nil},
			{"POST", others + "hmac/prf-" + stem + "-1/sha2-256", m{"input": "aGVsbG8="}},
			{"POST", others + "sign/sign", m{"input": "aGVsbG8="}},
			{"GET", other.KV + "/data/pieces/" + stem + "/1", nil},
			{"LIST", other.KV + "/metadata/pieces", nil},
			{"GET", cfg.KV + "/data/elsewhere", nil},
			{"POST", cfg.KV + "/config", m{"max_versions": 10}},
			{"GET", "sys/mounts", nil},
			{"PUT", "sys/audit/second", m{"type": "file", "options": m{"file_path": "/dev/null"}}},
			{"DELETE", "sys/audit/file", nil},
			{"GET", "sys/policies/acl/custodian-cust", nil},
			{"PUT", "sys/policies/acl/custodian-cust", m{"policy": ""}},
			{"PUT", "sys/seal", nil},
			{"GET", "auth/approle/role/custodian-cust/role-id", nil},
			{"POST", "auth/approle/role/custodian-cust/secret-id", nil},
			{"POST", "auth/token/create", nil},
		} {
			if status, said := s.Call(token, c.method, c.path, c.in); status != http.StatusForbidden {
				t.Errorf("%s %s %v gives %d, want 403: %s", c.method, c.path, c.in, status, said)
			}
		}
	})
}

func TestOtherSecrets(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		ring := transit.New(s.Client(s.Custodian("cust")))
		ctx, secret := t.Context(), []byte("a receiving key")
		for range 2 {
			if err := ring.Put(ctx, "hpke", secret); err != nil {
				t.Fatal(err)
			}
		}
		if err := ring.Put(ctx, "hpke", []byte("another")); !errors.Is(err, keys.ErrExists) {
			t.Errorf("another secret under the name gives %v", err)
		}
		if got, err := ring.Get(ctx, "hpke"); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("the secret comes back as %q, %v", got, err)
		}
		if err := errors.Join(ring.Forget(ctx, "hpke"), ring.Forget(ctx, "hpke")); err != nil {
			t.Error(err)
		}
		if _, err := ring.Get(ctx, "hpke"); !errors.Is(err, vault.ErrNotFound) {
			t.Errorf("a secret that was removed gives %v", err)
		}
	})
}

// An old copy of what kv held, put back after a rotation, is of no use: its wrapping key's version is gone.
func TestRotationKillsOldCopies(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		cfg := s.Custodian("cust")
		ring := transit.New(s.Client(cfg))
		if err := ring.Import(t.Context(), id, randomSecret(t, 100)); err != nil {
			t.Fatal(err)
		}
		path := cfg.KV + "/data/pieces/" + hex.EncodeToString(id.Keyset[:16]) + "/1"
		var old struct {
			Data struct{ Data map[string]any }
		}
		s.Root(http.MethodGet, path, nil, &old)
		if err := ring.Rotate(t.Context(), id.Keyset); err != nil {
			t.Fatal(err)
		}
		s.Root(http.MethodPost, path, map[string]any{"data": old.Data.Data}, nil)
		if got, err := ring.Piece(t.Context(), id); !errors.Is(err, vault.ErrRejected) {
			t.Errorf("an old record gives %d bytes, %v", len(got), err)
		}
	})
}

// Nothing that is logged anywhere holds a key: not the custodian's log, its errors, Vault's audit file or Vault's log.
func TestNoKeyIsLogged(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		var log bytes.Buffer
		cfg := s.Custodian("cust")
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c := s.Client(cfg)
		ring := transit.New(c)
		secret := randomSecret(t, 4096)
		ctx := t.Context()
		var derived [32]byte
		for _, step := range []func() error{
			func() error { return ring.Import(ctx, id, secret) },
			func() error { _, err := ring.Piece(ctx, id); return err },
			func() (err error) { derived, err = ring.PRF(ctx, id, []byte("m")); return err },
			func() error { return ring.Rotate(ctx, id.Keyset) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		var faults []string
		other := secret
		other.Piece = bytes.Clone(secret.Piece)
		other.Piece[0]++
		faults = append(faults, fmt.Sprint(ring.Import(ctx, id, other)), fmt.Sprintf("%v %+v %#v", secret, secret, secret))
		slog.New(slog.NewTextHandler(&log, nil)).Info("piece", "secret", secret, "client", c)
		faults = append(faults, fmt.Sprint(ring.Destroy(ctx, id.Keyset)))
		_, err := ring.Piece(ctx, id)
		faults = append(faults, fmt.Sprint(err))

		role, err := os.ReadFile(cfg.SecretIDFile)
		if err != nil {
			t.Fatal(err)
		}
		audit, err := os.ReadFile(s.Audit)
		if err != nil || len(audit) == 0 {
			t.Fatalf("the audit file has %d bytes, %v", len(audit), err)
		}
		server, err := os.ReadFile(s.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string][]byte{"audit": audit, "server": server, "log": log.Bytes(), "errors": []byte(strings.Join(faults, "\n"))}
		for what, key := range map[string][]byte{"piece": secret.Piece[:24], "middle of the piece": secret.Piece[3000:3024], "PRF key": secret.PRF[:24],
			"epoch key": derived[:24], "secret-id": bytes.TrimSpace(role)} {
			for where, text := range texts {
				for form, needle := range map[string][]byte{"raw": key, "hex": []byte(hex.EncodeToString(key)), "base64": []byte(base64.StdEncoding.EncodeToString(key)),
					"decimal": []byte(strings.Trim(fmt.Sprint(key), "[]"))} {
					if bytes.Contains(text, needle) {
						t.Errorf("%s: the %s is in it as %s", where, what, form)
					}
				}
			}
		}
	})
}

// An owner's secret that was forgotten stays gone, also for whoever kept what kv held; others stay.
func TestSafe(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		cfg, ctx := s.Agency("water"), t.Context()
		safe := transit.NewSafe(s.Client(cfg))
		name := "dataset key " + strings.Repeat("x", 63) + " sha256:" + strings.Repeat("0", 64) // as long as they get
		secret, other := []byte("a key of thirty-two bytes or less"), bytes.Repeat([]byte{7}, 1<<20)
		if err := errors.Join(safe.Put(ctx, name, secret), safe.Put(ctx, name, secret), safe.Put(ctx, "other", other)); err != nil {
			t.Fatal(err)
		}
		if err := safe.Put(ctx, name, []byte("another")); !errors.Is(err, keys.ErrExists) {
			t.Errorf("another secret under the name gives %v", err)
		}
		for at, want := range map[string][]byte{name: secret, "other": other} {
			if got, err := safe.Get(ctx, at); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%q comes back as %d bytes, %v", at, len(got), err)
			}
		}
		sum := sha256.Sum256([]byte(name))
		path := cfg.KV + "/data/own/" + hex.EncodeToString(sum[:16])
		kv := func(path string) map[string]any {
			var out struct{ Data struct{ Data map[string]any } }
			s.Root(http.MethodGet, path, nil, &out)
			return out.Data.Data
		}
		record, parts := kv(path), map[string]any{}
		stem := path + "/" + record["stem"].(string) + "-0"
		parts[stem] = kv(stem)
		if err := errors.Join(safe.Forget(ctx, name), safe.Forget(ctx, name), safe.Forget(ctx, "never there")); err != nil {
			t.Error(err)
		}
		gone := func(what string) {
			t.Helper()
			if got, err := safe.Get(ctx, name); !errors.Is(err, fs.ErrNotExist) || got != nil {
				t.Errorf("%s the secret is %d bytes, %v", what, len(got), err)
			}
		}
		gone("after it was forgotten")
		parts[path] = record
		for at, data := range parts {
			s.Root(http.MethodPost, at, map[string]any{"data": data}, nil)
		}
		gone("with the old copy put back")
		if got, err := safe.Get(ctx, "other"); err != nil || !bytes.Equal(got, other) {
			t.Errorf("the other one is %d bytes, %v", len(got), err)
		}
		s.Seal()
		cfg.Patience = time.Second
		if _, err := transit.NewSafe(s.Client(cfg)).Get(ctx, name); !errors.Is(err, vault.ErrSealed) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a sealed Vault gives %v", err)
		}
	})
}
