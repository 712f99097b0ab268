package db

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"yingzhou.dev/lab/sandbox"
)

// Migrations are numbered, go forward and back, and are never edited once released.
//
//go:embed migrations/*.sql
var migrations embed.FS

// provider drives the embedded migrations without goose's global registry.
func provider(db *sql.DB) (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
}

// migrate brings the schema up to date. Each migration is one transaction.
func migrate(ctx context.Context, db *sql.DB) error {
	p, err := provider(db)
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	has, knows, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	if has > knows { // goose itself would find nothing to do and carry on
		return fmt.Errorf("%w: its schema is version %d, this program knows %d", sandbox.ErrNewer, has, knows)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrating from schema version %d to %d: %w", has, knows, err)
	}
	return nil
}
