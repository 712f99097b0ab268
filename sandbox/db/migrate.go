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

// Migrations are numbered, go forward and back, and are never edited once released. Each database has its own: the same
// tables under the same numbers.
//
//go:embed migrations
var migrations embed.FS

// provider drives the embedded migrations without goose's global registry.
func provider(dialect goose.Dialect, db *sql.DB, opts ...goose.ProviderOption) (*goose.Provider, error) {
	folder := map[goose.Dialect]string{goose.DialectSQLite3: "migrations/sqlite", goose.DialectPostgres: "migrations/postgres"}[dialect]
	dir, err := fs.Sub(migrations, folder)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(dialect, db, dir, append(opts, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))...)
}

// migrate brings the schema up to date. Each migration is one transaction.
func migrate(ctx context.Context, p *goose.Provider) error {
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
