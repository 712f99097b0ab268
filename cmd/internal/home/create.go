package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/vault/signer"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
)

// Create makes a lab in a folder that does not hold one. After a crash it can be repeated.
func Create(ctx context.Context, dir, name string, production bool, now time.Time) error {
	path := filepath.Join(dir, settingsFile)
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("creating lab: %s: %w", dir, ErrExists)
	}
	for _, sub := range []string{"people", "agencies", "custodians", "plane/log", "plane/blobs", "plane/tmp", "witness"} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("creating lab: %w", err)
		}
	}
	root, err := identity(filepath.Join(dir, "people", "root.key"), "root")
	if err != nil {
		return fmt.Errorf("creating lab: %w", err)
	}
	origin := "yingzhou.lab/" + name
	logKey, witnessKey, err := audit.GenerateKeys(origin)
	if err != nil {
		return fmt.Errorf("creating lab: %w", err)
	}
	own, err := vaultOf(filepath.Join(dir, "plane"), Options{})
	if err != nil {
		return fmt.Errorf("creating lab: %w", err)
	}
	if own != nil { // the signing keys were made by whoever set the Vault up
		if logKey, err = logInVault(ctx, own, origin); err != nil {
			return fmt.Errorf("creating lab: %w", err)
		}
	}
	roster := operators.Roster{Lab: name, Serial: 1, Quorum: 2, Log: logKey.Public, Witness: witnessKey.Public, Made: canon.At(now)}
	for _, p := range founders {
		path := filepath.Join(dir, "people", p.Name+".key")
		switch p.Role {
		case operators.RoleCustodian:
			if p.Verify, p.HPKE, err = newParty(ctx, filepath.Join(dir, "custodians", p.Name), p.Name); err != nil {
				return fmt.Errorf("creating lab: custodian %q: %w", p.Name, err)
			}
			roster.Parties = append(roster.Parties, p)
			continue
		case operators.RoleLab, operators.RoleNode:
			if own != nil {
				key, err := signer.Read(ctx, own, p.Name, p.Name)
				if err != nil {
					return fmt.Errorf("creating lab: %w", err)
				}
				p.Verify = key.Verify()
				roster.Parties = append(roster.Parties, p)
				continue
			}
			path = filepath.Join(dir, "plane", p.Name+".key")
		}
		id, err := identity(path, p.Name)
		if err != nil {
			return fmt.Errorf("creating lab: %w", err)
		}
		p.Verify, p.HPKE = id.Verify(), id.HPKE()
		roster.Parties = append(roster.Parties, p)
	}
	signed, err := keys.SealWith(root, operators.KindRoster, roster)
	if err != nil {
		return fmt.Errorf("creating lab: %w", err)
	}
	files := map[string][]byte{"witness/witness.key": []byte(witnessKey.Secret), rosterFile: canon.MustMarshal(signed)}
	if own == nil {
		files["plane/log.key"] = []byte(logKey.Secret)
	}
	for name, data := range files {
		if err := durable.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("creating lab: %w", err)
		}
	}
	// lab.json comes last: a folder with it is whole.
	s := settings{Kind: settingsKind, Name: name, Root: root.Verify(), Production: production}
	if err := durable.WriteFile(path, canon.MustMarshal(s), 0o644); err != nil {
		return fmt.Errorf("creating lab: %w", err)
	}
	failpoint.Hit(failpoint.LabNamed)
	return nil
}

// identity loads an identity, or makes one: creating a lab can be repeated after a crash.
func identity(path, name string) (*keys.Identity, error) {
	id, err := keys.LoadIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if id, err = keys.NewIdentity(name); err != nil {
		return nil, err
	}
	err = id.Save(path)
	failpoint.Hit(failpoint.IdentityStored)
	return id, err
}
