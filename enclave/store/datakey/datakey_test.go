package datakey_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/store/datakey"
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

// blob is a sealed blob's beginning and some bytes.
func blob(t *testing.T, keyset enclave.Digest, name string) []byte {
	t.Helper()
	page, err := evaluator.NewBlobHeader(keyset, enclave.DefaultParams, enclave.Cube, name, [32]byte{1}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append(page, bytes.Repeat([]byte("ciphertext"), 20_000)...)
}

func TestDataKeys(t *testing.T) {
	for name, kind := range map[string]vaulttest.Kind{"vault": vaulttest.Vault, "openbao": vaulttest.OpenBao} {
		t.Run(name, func(t *testing.T) {
			s := vaulttest.Start(t, kind)
			cfg := s.ControlPlane()
			keys := datakey.New(s.Client(cfg))
			blobs, err := store.OpenAtRest(t.TempDir(), keys)
			if err != nil {
				t.Fatal(err)
			}
			ctx, ended, kept := t.Context(), enclave.Digest{1}, enclave.Digest{2}
			put := func(keyset enclave.Digest, name string) enclave.Digest {
				t.Helper()
				d, _, err := blobs.Put(ctx, bytes.NewReader(blob(t, keyset, name)), enclave.Digest{})
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			a, b, other := put(ended, "n"), put(ended, "s:x"), put(kept, "n")
			for _, d := range []enclave.Digest{a, b, other} {
				if err := blobs.Verify(ctx, d); err != nil {
					t.Error(err)
				}
			}
			if _, _, err := blobs.Put(ctx, bytes.NewReader([]byte("no sealed blob")), enclave.Digest{}); !errors.Is(err, enclave.ErrBlob) {
				t.Errorf("what is no sealed blob gives %v", err)
			}
			s.DisableAudit()
			if err := blobs.Verify(ctx, a); !errors.Is(err, vault.ErrNoAudit) {
				t.Errorf("without an audit device: %v", err)
			}
			s.EnableAudit()

			copied, err := os.ReadFile(blobs.Path(a))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 2 {
				if there, err := keys.Destroy(ctx, ended); err != nil || there != (i == 0) {
					t.Errorf("destroying: %v, %v", there, err)
				}
			}
			if err := blobs.Delete(a); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(blobs.Path(a), copied, 0o600); err != nil { // from a backup
				t.Fatal(err)
			}
			for _, d := range []enclave.Digest{a, b} {
				if err := blobs.Verify(ctx, d); !errors.Is(err, enclave.ErrNotFound) {
					t.Errorf("after the end of its dataset a blob gives %v", err)
				}
			}
			if err := blobs.Verify(ctx, other); err != nil {
				t.Errorf("another dataset's blob: %v", err)
			}
			// The same name again is another dataset's life: it gets a key of its own, and old blobs stay closed.
			put(ended, "q:x")
			if err := blobs.Verify(ctx, b); err == nil {
				t.Error("a new wrapping key opens an old blob")
			}

			token := s.Token(cfg)
			for _, c := range []struct{ method, path string }{{"GET", cfg.Transit + "/export/encryption-key/blobs-x"}, {"POST", cfg.Transit + "/encrypt/blobs-x"},
				{"POST", cfg.Transit + "/sign/sign"}, {"POST", cfg.Transit + "/hmac/x/sha2-256"}, {"POST", cfg.Transit + "/keys/x/import"}, {"DELETE", cfg.Transit + "/keys/log"},
				{"GET", "kv-plane/data/pieces/x"}, {"GET", "kv-cust/data/pieces/x"}, {"GET", "transit-cust/keys/sign"}, {"GET", "sys/mounts"}} {
				if status, said := s.Call(token, c.method, c.path, nil); status != http.StatusForbidden {
					t.Errorf("%s %s gives %d, want 403: %s", c.method, c.path, status, said)
				}
			}
		})
	}
}
