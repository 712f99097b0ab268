package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/cmd/internal/planner"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
)

func (h *Home) openLog(ctx context.Context) error {
	signer, verifier, err := h.logSigner()
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	secret, err := os.ReadFile(h.path("witness", "witness.key"))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	cosigner, err := audit.NewWitnessSigner(string(secret))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	witness, err := audit.NewWitness(h.path("witness", "state"), cosigner, verifier)
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	h.closers = append(h.closers, witness)
	if h.Log, err = audit.Open(ctx, audit.Config{Dir: h.path("plane", "log"), Signer: signer, Verifier: verifier, Witness: witness, Log: h.opts.Logger}); err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	h.stop = append(h.stop, h.Log.Close)
	return nil
}

// firstRoster records the roster that Create made.
func (h *Home) firstRoster(ctx context.Context) error {
	if _, _, err := h.Lab.Roster(ctx); err == nil {
		return nil
	}
	data, err := os.ReadFile(h.path(rosterFile))
	if err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	var s enclave.Signed
	if err := canon.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	return h.Lab.PutRoster(ctx, s)
}

func (h *Home) openCustodians(ctx context.Context) error {
	signed, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return err
	}
	for _, p := range roster.Parties {
		if p.Role != operators.RoleCustodian {
			continue
		}
		// One that was replaced is opened too, where it is here, so that it learns what to erase.
		if err := h.openCustodian(ctx, p, signed); err != nil {
			return err
		}
	}
	return nil
}

// openCustodian opens one custodian and makes it known to the others.
func (h *Home) openCustodian(ctx context.Context, p operators.Party, roster enclave.Signed) error {
	dir := h.path("custodians", p.Name)
	id, ring, err := h.openParty(p)
	if errors.Is(err, fs.ErrNotExist) {
		h.opts.Logger.WarnContext(ctx, "custodian is missing", "custodian", p.Name, "folder", dir)
		return nil
	}
	if err != nil {
		return err
	}
	own, err := store.Open(filepath.Join(dir, "mirror"))
	if err != nil {
		return err
	}
	copies := mirror.New(own, h.Blobs)
	h.closers = append(h.closers, copies)
	var c *release.Custodian
	driver, err := h.openNode(id, own, func() *operators.Roster { return c.Roster() })
	if err != nil {
		return err
	}
	c, err = release.New(release.Config{Dir: filepath.Join(dir, "state"), Signer: id, Keys: ring, Mirror: copies, RootKey: h.Root, Roster: roster,
		Log: custodianLog{h.Log}, Build: planner.Build, Node: driver, Open: id.Open, Workers: 1, Clock: h.opts.Clock, Logger: h.opts.Logger})
	if err != nil {
		return err
	}
	h.closers = append(h.closers, c)
	if err := h.openAggregator(c, id, copies); err != nil {
		return err
	}
	h.stores, h.parties[p.Name] = append(h.stores, own), id
	h.Custodians = append(h.Custodians, c)
	for _, other := range h.Custodians {
		other.Connect(c)
		c.Connect(other)
	}
	return nil
}
