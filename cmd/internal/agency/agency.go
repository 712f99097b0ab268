// Package agency is a data agency's own side of a lab: its datasets' keys, its schemas, and what a steward does with them.
// The lab may be in the same folder or at the other end of a network; the key and the rows are only here.
package agency

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// ErrNotYours means that somebody acts on what belongs to another body.
var ErrNotYours = errors.New("belongs to another body")

// Lab is what an agency needs of the control plane.
type Lab interface {
	Roster(ctx context.Context) (enclave.Signed, *operators.Roster, error)
	Dataset(ctx context.Context, name string) (*lab.Dataset, error)
	RegisterKeyset(ctx context.Context, keyset enclave.Signed) error
	Publish(ctx context.Context, manifest enclave.Signed) error
	Collection(ctx context.Context, name string) (*lab.Collection, error)
	ConfirmCollection(ctx context.Context, confirmed enclave.Signed) error
	DeliverReports(ctx context.Context, delivery enclave.Signed) error
}

// Config is what an Agency works with. All fields but Send are required.
type Config struct {
	Dir      string                                    // own folder: schemas, and the keyring or where the Vault is that has it; set by Open
	Identity func(name string) (*keys.Identity, error) // of the steward who acts
	Lab      Lab
	Blobs    *store.Store // where sealing writes
	// Deal hands a sealed key piece to its custodian and returns when the custodian has confirmed it.
	Deal func(ctx context.Context, keyset enclave.Signed, piece seal.DealtPiece) error
	// Send brings sealed blobs to the lab before they are published; nil where Blobs is the lab's own store. Sweep
	// removes what a sealing that failed has left in Blobs.
	Send  func(ctx context.Context, blobs []enclave.Digest) error
	Sweep func(ctx context.Context) error
	Clock func() time.Time
}

// Agency is a steward at work.
type Agency struct {
	cfg     Config
	steward *keys.Identity
	party   operators.Party
	ring    keyring
}

// Open checks that a steward may act for an agency, and makes the agency's folder, which dir gives.
func Open(ctx context.Context, cfg Config, name string, dir func(body string) string) (*Agency, error) {
	_, roster, err := cfg.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	p, ok := roster.Find(name)
	if !ok {
		return nil, fmt.Errorf("steward %q: %w: `lab person list` names the people", name, sandbox.ErrNotFound)
	}
	if p.Role != operators.RoleSteward {
		return nil, fmt.Errorf("%q is %s of %s and no data steward: the data %w", name, p.Role, p.Body, ErrNotYours)
	}
	id, err := cfg.Identity(name)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir(p.Body)
	if err := durable.MkdirAll(filepath.Join(cfg.Dir, "schemas"), 0o700); err != nil {
		return nil, err
	}
	ring, err := openKeyring(cfg.Dir)
	return &Agency{cfg: cfg, steward: id, party: p, ring: ring}, err
}

// Steward is who acts, with the keys.
func (a *Agency) Steward() *keys.Identity { return a.steward }

// Party is the steward's place in the roster.
func (a *Agency) Party() operators.Party { return a.party }

func keyName(dataset string) string { return "dataset key " + dataset }

// Register deals a dataset's key to the custodians and registers its keyset. Repeating it after a crash takes up where it
// stopped: the keyset is registered last, and pieces of an unregistered one are of no use to anyone.
func (a *Agency) Register(ctx context.Context, sc *schema.Schema) (*enclave.Keyset, error) {
	name := sc.Sealing.Dataset
	if _, err := a.cfg.Lab.Dataset(ctx, name); err == nil {
		return nil, fmt.Errorf("registering dataset %q: %w: it is registered already; `seal` takes new versions of its data", name, sandbox.ErrConflict)
	} else if !errors.Is(err, sandbox.ErrNotFound) {
		return nil, err
	}
	_, roster, err := a.cfg.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	dealt, err := seal.Deal(seal.Dealing{Dataset: name, Params: sc.Params(), Custodians: roster.WithRole(operators.RoleCustodian), Quorum: roster.Quorum,
		EntityRows: sc.Sealing.EntityRows, BudgetMicro: sc.BudgetMicro(), Made: canon.At(a.cfg.Clock())}, a.steward, a.party.Body)
	if err != nil {
		return nil, err
	}
	defer dealt.Key.Erase()
	for _, p := range dealt.Pieces {
		if err := a.cfg.Deal(ctx, dealt.Keyset, p); err != nil {
			return nil, fmt.Errorf("registering dataset %q: %w", name, err)
		}
	}
	secret := dealt.Key.MarshalBinary()
	defer clear(secret)
	if err := a.ring.Put(ctx, keyName(name)+" "+dealt.Keyset.Digest().String(), secret); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.DatasetKeyStored)
	if err := a.saveSchema(sc, 0); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.SchemaStored)
	if err := a.cfg.Lab.RegisterKeyset(ctx, dealt.Keyset); err != nil {
		return nil, err
	}
	var ks enclave.Keyset
	return &ks, dealt.Keyset.Open(enclave.KindKeyset, &ks)
}

// schemaFile is the schema that a version of a dataset was sealed with; version 0 is the one it was registered with.
func (a *Agency) schemaFile(dataset string, version int64) string {
	return filepath.Join(a.cfg.Dir, "schemas", fmt.Sprintf("%s.%d.json", dataset, version))
}

// saveSchema comes before its version is published: until then nobody asks for it, and sealing again replaces it.
func (a *Agency) saveSchema(sc *schema.Schema, version int64) error {
	data, err := sc.Encode()
	if err != nil {
		return err
	}
	return durable.WriteFile(a.schemaFile(sc.Sealing.Dataset, version), data, 0o600)
}

// loadSchema reads the schema of a dataset's current version from the agency's own folder.
func (a *Agency) loadSchema(dataset string, version int64) (*schema.Schema, error) {
	data, err := os.ReadFile(a.schemaFile(dataset, version))
	if err != nil {
		return nil, fmt.Errorf("schema of dataset %q: %w", dataset, err)
	}
	return schema.Parse(data)
}
