package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
)

func (h *Home) openLog(ctx context.Context) error {
	secret, err := os.ReadFile(h.path("plane", "log.key"))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	signer, verifier, err := audit.NewLogSigner(string(secret))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	secret, err = os.ReadFile(h.path("witness", "witness.key"))
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
	var members []release.Member
	for _, p := range roster.WithRole(operators.RoleCustodian) {
		dir := h.path("custodians", p.Name)
		id, err := keys.LoadIdentity(filepath.Join(dir, "identity.key"))
		if errors.Is(err, fs.ErrNotExist) {
			h.opts.Logger.WarnContext(ctx, "custodian is missing", "custodian", p.Name, "folder", dir)
			continue
		}
		if err != nil {
			return err
		}
		ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
		if err != nil {
			return err
		}
		own, err := store.Open(filepath.Join(dir, "mirror"))
		if err != nil {
			return err
		}
		copies := mirror.New(own, h.Blobs)
		h.closers = append(h.closers, copies)
		c, err := release.New(release.Config{Dir: filepath.Join(dir, "state"), Signer: id, Keys: ring, Mirror: copies, RootKey: h.Root, Roster: signed,
			Log: custodianLog{h.Log}, Build: BuildPlan, Node: &nodeRunner{h, p.Name, own}, Open: id.Open, Workers: 1, Clock: h.opts.Clock, Logger: h.opts.Logger})
		if err != nil {
			return err
		}
		h.closers = append(h.closers, c)
		h.Custodians = append(h.Custodians, c)
		members = append(members, c)
	}
	for _, c := range h.Custodians {
		c.Connect(members...)
	}
	return nil
}
