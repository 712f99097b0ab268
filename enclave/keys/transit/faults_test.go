package transit_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/signer"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
)

// held is a custodian of a real server that holds a piece, with little patience.
func held(t *testing.T, s *vaulttest.Server, alter func(*vault.Config)) (*transit.Keyring, keys.PieceSecret, vault.Config) {
	t.Helper()
	cfg := s.Custodian("cust", "TOKEN_TTL=1h")
	secret := randomSecret(t, 5000)
	if err := transit.New(s.Client(cfg)).Import(t.Context(), id, secret); err != nil {
		t.Fatal(err)
	}
	cfg.Patience = time.Second
	if alter != nil {
		alter(&cfg)
	}
	return transit.New(s.Client(cfg)), secret, cfg
}

// fails insists that every use of a key fails with the error; works that every one works.
func fails(t *testing.T, ring *transit.Keyring, want error) {
	t.Helper()
	if got, err := ring.Piece(t.Context(), id); !errors.Is(err, want) || got != nil {
		t.Errorf("unwrapping gives %d bytes, %v; want %v", len(got), err, want)
	}
	if got, err := ring.PRF(t.Context(), id, []byte("m")); !errors.Is(err, want) || got != [32]byte{} {
		t.Errorf("the PRF gives %x, %v; want %v", got, err, want)
	}
	if err := ring.Import(t.Context(), keys.PieceID{Keyset: id.Keyset, Piece: 2}, randomSecret(t, 10)); !errors.Is(err, want) {
		t.Errorf("importing gives %v; want %v", err, want)
	}
	if err := ring.Rotate(t.Context(), id.Keyset); !errors.Is(err, want) {
		t.Errorf("rotating gives %v; want %v", err, want)
	}
}

func works(t *testing.T, ring *transit.Keyring, secret keys.PieceSecret) {
	t.Helper()
	if got, err := ring.Piece(t.Context(), id); err != nil || !bytes.Equal(got, secret.Piece) {
		t.Errorf("unwrapping gives %d bytes, %v", len(got), err)
	}
	if _, err := ring.PRF(t.Context(), id, []byte("m")); err != nil {
		t.Errorf("the PRF gives %v", err)
	}
}

func TestSealed(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		ring, secret, _ := held(t, s, nil)
		works(t, ring, secret)
		s.Seal()
		fails(t, ring, vault.ErrSealed)
		s.Unseal()
		works(t, ring, secret)
	})
}

// A call that is under way while the server is away ends well when it comes back within the client's patience.
func TestCallOutlivesARestart(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		ring, secret, _ := held(t, s, func(cfg *vault.Config) { cfg.Patience = time.Minute })
		works(t, ring, secret)
		s.Kill()
		got := make(chan error, 1)
		go func() {
			_, err := ring.Piece(t.Context(), id)
			got <- err
		}()
		s.Restart() // sealed at first
		s.Unseal()
		if err := <-got; err != nil {
			t.Errorf("the call that met the restart: %v", err)
		}
	})
}

func TestKilledAndRestarted(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		ring, secret, _ := held(t, s, nil)
		works(t, ring, secret)
		s.Kill()
		fails(t, ring, vault.ErrUnreachable)
		s.Restart()
		fails(t, ring, vault.ErrSealed)
		s.Unseal()
		works(t, ring, secret)
	})
}

func TestSlow(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		target, err := url.Parse(s.Address)
		if err != nil {
			t.Fatal(err)
		}
		var slow atomic.Bool
		proxy := httputil.NewSingleHostReverseProxy(target)
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slow.Load() {
				<-r.Context().Done() // answers when nobody listens any more
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		defer front.Close()
		ring, secret, _ := held(t, s, func(cfg *vault.Config) { cfg.Address = front.URL })
		works(t, ring, secret)
		slow.Store(true)
		fails(t, ring, vault.ErrSlow)
		slow.Store(false)
		works(t, ring, secret)
	})
}

// The caller's own end is told from the server's slowness.
func TestCancelled(t *testing.T) {
	s := vaulttest.Start(t, vaulttest.Vault)
	ring, _, _ := held(t, s, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ring.Piece(ctx, id); !errors.Is(err, context.Canceled) || errors.Is(err, vault.ErrSlow) {
		t.Errorf("a cancelled call gives %v", err)
	}
}

func TestTokenExpiredOrRevoked(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		ring, secret, cfg := held(t, s, nil)
		works(t, ring, secret)
		// Every token that was ever given out is gone, as when its time is over.
		s.Root(http.MethodPost, "sys/leases/revoke-prefix/auth/approle", nil, nil)
		works(t, ring, secret)
		// Now the credentials are withdrawn too.
		s.Root(http.MethodDelete, "auth/approle/role/custodian-cust", nil, nil)
		s.Root(http.MethodPost, "sys/leases/revoke-prefix/auth/approle", nil, nil)
		fails(t, ring, vault.ErrLogin)
		// The Vault's operator gives new ones, into the same files.
		again := s.Custodian("cust")
		if again.SecretIDFile != cfg.SecretIDFile {
			t.Fatal("the credentials went elsewhere")
		}
		works(t, ring, secret)
	})
}

// A token whose time is short is replaced before it ends.
func TestShortTokens(t *testing.T) {
	s := vaulttest.Start(t, vaulttest.Vault)
	cfg := s.Custodian("cust", "TOKEN_TTL=1s")
	ring, secret := transit.New(s.Client(cfg)), randomSecret(t, 10)
	if err := ring.Import(t.Context(), id, secret); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); {
		works(t, ring, secret)
	}
}

func TestNoAuditDevice(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		ring, secret, cfg := held(t, s, nil)
		own, err := signer.Read(t.Context(), s.Client(cfg), "cust", "sign")
		if err != nil {
			t.Fatal(err)
		}
		works(t, ring, secret)
		s.DisableAudit()
		fails(t, ring, vault.ErrNoAudit)
		if _, err := own.Sign("kind", []byte("x")); !errors.Is(err, vault.ErrNoAudit) {
			t.Errorf("signing gives %v", err)
		}
		s.EnableAudit()
		works(t, ring, secret)
		if _, err := own.Sign("kind", []byte("x")); err != nil {
			t.Errorf("signing again: %v", err)
		}
	})
}
