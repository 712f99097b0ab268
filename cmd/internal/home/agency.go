package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// An agency's side of the lab. In production these run at the agency, with the agency's own Vault.

// steward finds a data steward and the agency's own folder.
func (h *Home) steward(ctx context.Context, name string) (*keys.Identity, operators.Party, string, error) {
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return nil, operators.Party{}, "", err
	}
	p, ok := roster.Find(name)
	if !ok {
		return nil, p, "", fmt.Errorf("steward %q: %w: `lab person list` names the people", name, sandbox.ErrNotFound)
	}
	if p.Role != operators.RoleSteward {
		return nil, p, "", fmt.Errorf("%q is %s of %s and no data steward: the data %w", name, p.Role, p.Body, ErrNotYours)
	}
	id, err := h.Identity(name)
	if err != nil {
		return nil, p, "", err
	}
	dir := h.path("agencies", p.Body)
	return id, p, dir, durable.MkdirAll(filepath.Join(dir, "schemas"), 0o700)
}

func keyName(dataset string) string { return "dataset key " + dataset }

// RegisterDataset deals a dataset's key to the custodians and registers its keyset. Repeating it after a crash takes up
// where it stopped: the keyset is registered last, and pieces of an unregistered one are of no use to anyone.
func (h *Home) RegisterDataset(ctx context.Context, sc *schema.Schema, steward string) (*enclave.Keyset, error) {
	id, party, dir, err := h.steward(ctx, steward)
	if err != nil {
		return nil, err
	}
	name := sc.Sealing.Dataset
	if _, err := h.Lab.Dataset(ctx, name); err == nil {
		return nil, fmt.Errorf("registering dataset %q: %w: it is registered already; `seal` takes new versions of its data", name, sandbox.ErrConflict)
	} else if !errors.Is(err, sandbox.ErrNotFound) {
		return nil, err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
	if err != nil {
		return nil, err
	}
	dealt, err := seal.Deal(seal.Dealing{Dataset: name, Params: sc.Params(), Custodians: roster.WithRole(operators.RoleCustodian), Quorum: roster.Quorum,
		EntityRows: sc.Sealing.EntityRows, BudgetMicro: sc.BudgetMicro(), Made: canon.At(h.Now())}, id, party.Body)
	if err != nil {
		return nil, err
	}
	defer dealt.Key.Erase()
	for _, p := range dealt.Pieces {
		c := h.custodian(p.Custodian)
		if c == nil {
			return nil, fmt.Errorf("registering dataset %q: custodian %q is not here; a key is dealt to all custodians or to none", name, p.Custodian)
		}
		own, err := keys.LoadIdentity(h.path("custodians", p.Custodian, "identity.key"))
		if err != nil {
			return nil, err
		}
		if err := c.Accept(ctx, dealt.Keyset, p.Piece, p.Sealed, own.Open); err != nil {
			return nil, fmt.Errorf("registering dataset %q: %w", name, err)
		}
	}
	secret := dealt.Key.MarshalBinary()
	defer clear(secret)
	if err := ring.Put(keyName(name)+" "+dealt.Keyset.Digest().String(), secret); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.DatasetKeyStored)
	if err := saveSchema(dir, sc, 0); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.SchemaStored)
	if err := h.Lab.RegisterKeyset(ctx, dealt.Keyset); err != nil {
		return nil, err
	}
	var ks enclave.Keyset
	return &ks, dealt.Keyset.Open(enclave.KindKeyset, &ks)
}

func (h *Home) custodian(name string) *release.Custodian {
	for _, c := range h.Custodians {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// schemaFile is the schema that a version of a dataset was sealed with; version 0 is the one it was registered with.
func schemaFile(dir, dataset string, version int64) string {
	return filepath.Join(dir, "schemas", fmt.Sprintf("%s.%d.json", dataset, version))
}

// saveSchema comes before its version is published: until then nobody asks for it, and sealing again replaces it.
func saveSchema(dir string, sc *schema.Schema, version int64) error {
	data, err := sc.Encode()
	if err != nil {
		return err
	}
	return durable.WriteFile(schemaFile(dir, sc.Sealing.Dataset, version), data, 0o600)
}

// loadSchema reads the schema of a dataset's current version from the agency's own folder.
func loadSchema(dir, dataset string, version int64) (*schema.Schema, error) {
	data, err := os.ReadFile(schemaFile(dir, dataset, version))
	if err != nil {
		return nil, fmt.Errorf("schema of dataset %q: %w", dataset, err)
	}
	return schema.Parse(data)
}
