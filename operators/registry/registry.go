// Package registry records what people decide: licences, applications, consents and decisions. It checks each statement
// against the record before it is signed and again before it is kept, so that a mistake is told to the person who makes
// it, at once and with every reason, instead of surfacing as a denied job weeks later.
//
// The registry is a convenience, not an authority. What counts is decided by operators.Authorize from the signatures,
// by every custodian alone; a registry that lies or fails can keep statements back but cannot make one count.
//
// Order of effects: check, log entry, store. A crash between the last two leaves an entry whose statement is missing;
// recording the same statement again stores it, and Log is given the statement so that it can keep a copy for that.
// Nothing is stored that is not in the log.
package registry

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// Store keeps statements. Append must be durable when it returns and must accept a statement that it already has; All
// returns every statement in any order.
type Store interface {
	Append(ctx context.Context, s operators.Signed) error
	All(ctx context.Context) ([]operators.Signed, error)
}

// Log writes the entry that announces a statement and returns once it is in the log for good. On an error nothing is
// stored. It may be called again for a statement whose storing failed.
type Log func(ctx context.Context, statement operators.Signed, by string) error

// Config is what a Registry works with. All fields are required.
type Config struct {
	Store   Store
	Log     Log
	RootKey ed25519.PublicKey // the lab's root key
	Roster  func(context.Context) (operators.Signed, error)
	Owners  func(context.Context) (map[string]string, error) // dataset → owner body, from the keysets on record
	Clock   func() time.Time
}

// Registry records statements one at a time.
type Registry struct {
	cfg Config
	mu  sync.Mutex // held from the check to the store, so that two people cannot both pass one check
}

// New checks the configuration.
func New(cfg Config) (*Registry, error) {
	if cfg.Store == nil || cfg.Log == nil || cfg.Roster == nil || cfg.Owners == nil || cfg.Clock == nil {
		return nil, errors.New("registry needs a store, a log, a roster, the owners of datasets and a clock")
	}
	if len(cfg.RootKey) != ed25519.PublicKeySize {
		return nil, errors.New("registry needs the lab's root key")
	}
	return &Registry{cfg: cfg}, nil
}

// Record keeps a statement that somebody signed elsewhere. A statement that is already on record is no error. A refusal
// is a *operators.DeniedError with all reasons, or matches operators.ErrSignature, ErrRole, ErrAbsent, ErrFuture or
// ErrInvalid when the statement itself is no good.
func (r *Registry) Record(ctx context.Context, s operators.Signed) (operators.Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, all, err := r.open(ctx, r.cfg.Clock())
	if err != nil {
		return operators.Digest{}, err
	}
	digest := s.Digest()
	by, err := signer(d, s)
	if err != nil {
		return operators.Digest{}, fmt.Errorf("recording statement: %w", err)
	}
	for _, have := range all {
		if have.Kind == s.Kind && have.Digest() == digest && verifies(d, have) {
			return digest, nil
		}
	}
	if err := check(d, s, by); err != nil {
		return operators.Digest{}, fmt.Errorf("recording %s by %q: %w", s.Kind, by.Name, err)
	}
	if err := r.cfg.Log(ctx, s, by.Name); err != nil {
		return operators.Digest{}, fmt.Errorf("recording %s %s: writing its log entry: %w", s.Kind, digest.Short(), err)
	}
	if err := r.cfg.Store.Append(ctx, s); err != nil {
		return operators.Digest{}, fmt.Errorf("recording %s %s: logged but not stored, send it again: %w", s.Kind, digest.Short(), err)
	}
	return digest, nil
}

// Check tells whether Record would accept the statement, without recording it.
func (r *Registry) Check(ctx context.Context, s operators.Signed) error {
	d, _, err := r.open(ctx, r.cfg.Clock())
	if err != nil {
		return err
	}
	by, err := signer(d, s)
	if err != nil {
		return fmt.Errorf("checking statement: %w", err)
	}
	return check(d, s, by)
}

// Docket is the verified record as it stands now.
func (r *Registry) Docket(ctx context.Context, now time.Time) (*operators.Docket, error) {
	d, _, err := r.open(ctx, now)
	return d, err
}

func (r *Registry) open(ctx context.Context, now time.Time) (*operators.Docket, []operators.Signed, error) {
	roster, err := r.cfg.Roster(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the roster: %w", err)
	}
	owners, err := r.cfg.Owners(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the owners of datasets: %w", err)
	}
	all, err := r.cfg.Store.All(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the record: %w", err)
	}
	d, err := operators.OpenDocket(operators.Statements{Roster: roster, RootKey: r.cfg.RootKey, Owners: owners, All: all}, now)
	return d, all, err
}

// kinds are the statements that the registry records and who may sign them.
var kinds = map[string][]operators.Role{
	operators.KindLicense:  {operators.RoleOfficial},
	operators.KindScenario: {operators.RoleAnalyst},
	operators.KindConsent:  {operators.RoleSteward},
	operators.KindDecision: {operators.RoleOfficial, operators.RoleSteward},
}

func signer(d *operators.Docket, s operators.Signed) (operators.Party, error) {
	roles, ok := kinds[s.Kind]
	if !ok {
		return operators.Party{}, fmt.Errorf("%w: %q is no kind of statement", operators.ErrInvalid, s.Kind)
	}
	return d.Roster.Verify(s, s.Kind, roles...)
}

func verifies(d *operators.Docket, s operators.Signed) bool {
	_, err := d.Roster.VerifyPast(s, s.Kind, kinds[s.Kind]...)
	return err == nil
}

// Signer is a person about to sign. Implementations hold the key: a file, a Vault, a passkey.
type Signer interface {
	Name() string
	Sign(kind string, body []byte) (canon.Signature, error)
}

// Key is a Signer with its private key in memory. It never prints the key.
type Key struct {
	name string
	key  ed25519.PrivateKey
}

// NewKey names the holder of a private key.
func NewKey(name string, key ed25519.PrivateKey) (Key, error) {
	if len(key) != ed25519.PrivateKeySize {
		return Key{}, fmt.Errorf("key of %q has %d bytes, want %d", name, len(key), ed25519.PrivateKeySize)
	}
	return Key{name: name, key: key}, nil
}

// Name is the party's name in the roster.
func (k Key) Name() string { return k.name }

// Sign signs as canon.Sign does.
func (k Key) Sign(kind string, body []byte) (canon.Signature, error) {
	return canon.Sign(kind, body, k.name, k.key), nil
}

// Format prints the name for every verb, so that no log line or error can show the key.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "key of %q", k.name) }

// MarshalText keeps structured logs and JSON from walking into the key.
func (k Key) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "key of %q", k.name), nil }
