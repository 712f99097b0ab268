package plane

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/signer"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// labd's secrets are in files or in its own Vault. With a Vault signing keys are used where they lie; labd links nothing
// that could open data there. While the Vault is away nothing is signed: callers hear that, jobs rest, and both go on by
// themselves when it is back.

// openVault makes the client of labd's own Vault. It calls nothing.
func (p *plane) openVault(context.Context) (err error) {
	if p.cfg.Vault == nil {
		return nil
	}
	at := *p.cfg.Vault
	at.Logger = p.env.Logger
	p.vault, err = vault.New(at)
	return err
}

// trouble is what is the matter with a Vault that ends without a change to labd's configuration; nil if it is nothing of
// that kind.
func trouble(err error) error {
	for _, is := range []error{vault.ErrSealed, vault.ErrUnreachable, vault.ErrSlow, vault.ErrLogin, vault.ErrNoAudit, vault.ErrServer} {
		if errors.Is(err, is) {
			return is
		}
	}
	return nil
}

// await repeats what labd cannot start without while the Vault is in trouble.
func (p *plane) await(ctx context.Context, do func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := do(ctx)
		if err == nil || trouble(err) == nil || ctx.Err() != nil {
			return err
		}
		p.env.Logger.WarnContext(ctx, "waiting for the vault", "address", p.cfg.Vault.Address, "error", err)
		if err := pause(ctx, min(time.Second<<min(attempt, 4), 10*time.Second)); err != nil {
			return err
		}
	}
}

// dsn reads how to reach PostgreSQL.
func (p *plane) dsn(ctx context.Context) (dsn string, err error) {
	err = p.await(ctx, func(ctx context.Context) error {
		dsn, err = p.cfg.Database.Postgres.Read(ctx, p.vault)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("database.postgres: %w", err)
	}
	return dsn, nil
}

// logSigner is the log's key. One in a Vault must be the roster's and ready before the log is opened, which may have to
// sign what a crash left unsigned.
func (p *plane) logSigner(ctx context.Context) (note.Signer, note.Verifier, error) {
	at := p.cfg.Keys.Log
	if at.Key == "" {
		secret, err := os.ReadFile(at.File)
		if err != nil {
			return nil, nil, err
		}
		defer clear(secret)
		return audit.NewLogSigner(strings.TrimSpace(string(secret)))
	}
	n, err := signer.OpenNote(p.vault, at.Key, p.roster.Log)
	if err != nil {
		return nil, nil, err
	}
	if err := p.await(ctx, n.Ready); err != nil {
		return nil, nil, fmt.Errorf("keys.log %s: %w", at, err)
	}
	return told{n, p}, n.Verifier(), nil
}

// signers are the keys that sign grants and receipts.
func (p *plane) signers() (labKey, nodeKey lab.Signer, err error) {
	if labKey, err = p.signer(operators.RoleLab, p.cfg.Keys.Lab); err == nil {
		nodeKey, err = p.signer(operators.RoleNode, p.cfg.Keys.Node)
	}
	return labKey, nodeKey, err
}

func (p *plane) signer(role operators.Role, at daemon.Secret) (lab.Signer, error) {
	party, err := p.party(role)
	if err != nil {
		return nil, err
	}
	if at.Key != "" {
		return tells{signer.Open(p.vault, party.Name, at.Key, party.Key()), p}, nil
	}
	return readKey(party.Name, at.File)
}

// party is the one of a role in the first roster.
func (p *plane) party(role operators.Role) (operators.Party, error) {
	all := p.roster.WithRole(role)
	if len(all) != 1 {
		return operators.Party{}, fmt.Errorf("the roster has %d parties with role %s, want one", len(all), role)
	}
	return all[0], nil
}

// readKey reads a signing key of the control plane's own. Its content never appears in an error.
func readKey(name, path string) (registry.Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return registry.Key{}, err
	}
	defer clear(data)
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 {
		return registry.Key{}, fmt.Errorf("%s is not one block of PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return registry.Key{}, fmt.Errorf("%s is not an Ed25519 key", path)
	}
	return registry.NewKey(name, key)
}

// tell lets callers and whoever watches a job know what is the matter with labd's Vault. The whole error, which names
// addresses and paths, is for labd's log. The code is not Unavailable: repeating the call at once helps nobody.
func (p *plane) tell(err error) error {
	is := trouble(err)
	if is == nil {
		return err
	}
	p.env.Logger.Error("keys cannot be used", "error", err)
	return rpc.Errorf(codes.FailedPrecondition, "the lab's keys cannot be used now: %v", is)
}

// tells is a signer of statements that tells, told one of notes, telling a custody of data keys.
type tells struct {
	*signer.Signer
	p *plane
}

func (t tells) Sign(kind string, body []byte) (canon.Signature, error) {
	sig, err := t.Signer.Sign(kind, body)
	return sig, t.p.tell(err)
}

type told struct {
	*signer.Note
	p *plane
}

func (t told) Sign(message []byte) ([]byte, error) {
	sig, err := t.Note.Sign(message)
	return sig, t.p.tell(err)
}

type telling struct {
	store.Keys
	p *plane
}

func (t telling) Fresh(ctx context.Context, head []byte) ([]byte, store.Ref, error) {
	key, ref, err := t.Keys.Fresh(ctx, head)
	return key, ref, t.p.tell(err)
}

func (t telling) Open(ctx context.Context, ref store.Ref) ([]byte, error) {
	key, err := t.Keys.Open(ctx, ref)
	return key, t.p.tell(err)
}
