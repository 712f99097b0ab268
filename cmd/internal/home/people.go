package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// Identity loads a person's keys. Only people whose private key lies in this lab can be acted for.
func (h *Home) Identity(name string) (*keys.Identity, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	id, err := keys.LoadIdentity(h.path("people", name+".key"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keys of %q: %w: they are not in this lab, so nobody can act for them here", name, sandbox.ErrNotFound)
	}
	return id, err
}

// checkName keeps the names of key files inside their folder, and away from the root key.
func checkName(name string) error {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") || name == operators.Root {
		return fmt.Errorf("%q cannot be the name of a person: %w", name, operators.ErrInvalid)
	}
	return nil
}

// AddPerson makes a person's keys and a new roster with them.
func (h *Home) AddPerson(ctx context.Context, p operators.Party) error {
	if err := checkName(p.Name); err != nil {
		return err
	}
	if p.Body == "" || p.Body != filepath.Base(p.Body) || strings.HasPrefix(p.Body, ".") { // agencies have folders
		return fmt.Errorf("%q cannot be the name of a body: %w", p.Body, operators.ErrInvalid)
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return err
	}
	if have, taken := roster.Find(p.Name); taken {
		return fmt.Errorf("adding %q: %w: the name belongs to %s of %s", p.Name, sandbox.ErrConflict, have.Role, have.Body)
	}
	next := *roster
	id, err := identity(h.path("people", p.Name+".key"), p.Name)
	if err != nil {
		return err
	}
	p.Verify, p.HPKE = id.Verify(), id.HPKE()
	next.Parties = append(slices.Clone(roster.Parties), p)
	_, err = h.newRoster(ctx, next)
	return err
}

// newRoster signs a roster as the next one and tells everybody.
func (h *Home) newRoster(ctx context.Context, next operators.Roster) (enclave.Signed, error) {
	next.Serial, next.Made = next.Serial+1, canon.At(h.Now())
	if err := next.Validate(); err != nil {
		return enclave.Signed{}, err
	}
	root, err := keys.LoadIdentity(h.path("people", "root.key"))
	if err != nil {
		return enclave.Signed{}, fmt.Errorf("signing the roster: %w", err)
	}
	signed, err := keys.SealWith(root, operators.KindRoster, next)
	if err != nil {
		return signed, err
	}
	if err := h.Lab.PutRoster(ctx, signed); err != nil {
		return signed, err
	}
	for _, c := range h.Custodians {
		if err := c.UseRoster(signed); err != nil {
			return signed, err
		}
	}
	return signed, nil
}
