package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
)

// The latest roster that a custodian has seen outlives its process: otherwise a control plane could wait for a restart
// and then show an earlier one, in which somebody who has left still acts.

const rosterName = "roster.json"

// openRoster starts with the configured roster, or with the later one that was seen.
func (c *Custodian) openRoster() error {
	r, err := operators.OpenRoster(c.cfg.Roster, c.cfg.RootKey)
	if err != nil {
		return err
	}
	c.roster.Store(r)
	path := filepath.Join(c.cfg.Dir, rosterName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var signed canon.Signed
	if err == nil {
		err = canon.Unmarshal(data, &signed)
	}
	if err == nil {
		r, err = operators.OpenRoster(signed, c.cfg.RootKey)
	}
	if err != nil {
		return fmt.Errorf("roster seen last, %s: %w", path, err)
	}
	if r.Serial > c.Roster().Serial {
		c.roster.Store(r)
	}
	return nil
}

// Roster is the latest roster that this custodian knows.
func (c *Custodian) Roster() *operators.Roster { return c.roster.Load() }

// UseRoster takes over a later roster that the root key signed. An earlier one changes nothing.
func (c *Custodian) UseRoster(s canon.Signed) error {
	r, err := operators.OpenRoster(s, c.cfg.RootKey)
	if err != nil {
		return fmt.Errorf("custodian %q: %w", c.Name(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.takeRoster(s, r)
}

// takeRoster remembers a later roster, durably, before anything rests on it.
func (c *Custodian) takeRoster(s canon.Signed, r *operators.Roster) error {
	if r.Serial <= c.Roster().Serial {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(c.cfg.Dir, rosterName), canon.MustMarshal(s), 0o600); err != nil {
		return fmt.Errorf("custodian %q: %w", c.Name(), err)
	}
	failpoint.Hit(failpoint.RosterKept)
	c.roster.Store(r)
	return nil
}
