package custody

import (
	"context"

	"yingzhou.dev/lab/cmd/internal/daemon"
)

// Pieces implements daemon.Keeper. Keys that are in files go along; those in the Vault stay there. Copies of blobs are
// fetched again.
func (c *Config) Pieces() []daemon.Piece {
	out := []daemon.Piece{{Name: "roster", Path: c.Roster}, {Name: "state", Path: c.State}}
	if c.Vault == nil {
		out = append(out, daemon.Piece{Name: "identity", Path: c.Identity}, daemon.Piece{Name: "keyring", Path: c.Keyring})
	}
	return out
}

// Save implements daemon.Keeper.
func (c *Config) Save(context.Context, daemon.Env, string) ([]daemon.Piece, string, error) {
	return nil, "", nil
}

// Accept implements daemon.Keeper. Any backup will do, however old: a custodian takes over from its peers what it has
// charged since, before it signs anything.
func (c *Config) Accept(context.Context, daemon.Env, map[string]string, *daemon.Backup) (func(context.Context) error, error) {
	return nil, nil
}
