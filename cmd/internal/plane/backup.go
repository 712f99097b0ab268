package plane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/witness"
)

// databasePiece is the metadata as a SQLite file, from either database.
const databasePiece = "database"

// Pieces implements daemon.Keeper. Signing keys that are in files go along; those in the Vault stay there.
func (c *Config) Pieces() []daemon.Piece {
	under := func(rel, dir string) bool { return rel == dir || strings.HasPrefix(rel, dir+"/") }
	out := []daemon.Piece{{Name: "roster", Path: c.Roster}, {Name: "log_dir", Path: c.LogDir},
		{Name: "blobs", Path: c.Blobs, Skip: func(rel string) bool { return under(rel, "incoming") || under(rel, "derived") }}}
	for name, at := range map[string]daemon.Secret{"keys.lab": c.Keys.Lab, "keys.node": c.Keys.Node, "keys.log": c.Keys.Log} {
		if at.File != "" {
			out = append(out, daemon.Piece{Name: name, Path: at.File})
		}
	}
	return out
}

// open makes what a backup needs of a control plane that does not run. end releases it.
func (c *Config) open(ctx context.Context, env daemon.Env) (p *plane, end func() error, err error) {
	p = &plane{cfg: c, env: env}
	end = func() error {
		var errs []error
		for _, f := range p.closes {
			errs = append(errs, f(context.WithoutCancel(ctx)))
		}
		return errors.Join(errs...)
	}
	if err := p.openVault(ctx); err != nil {
		return nil, nil, err
	}
	return p, end, nil
}

// Save implements daemon.Keeper. The log must be nobody's: others that share it would go on writing.
func (c *Config) Save(ctx context.Context, env daemon.Env, scratch string) (more []daemon.Piece, checkpoint string, err error) {
	p, end, err := c.open(ctx, env)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, end()) }()
	log, err := c.idle()
	if err != nil {
		return nil, "", err
	}
	defer log.Close()
	if err := p.openRecords(ctx); err != nil {
		return nil, "", err
	}
	saved := filepath.Join(scratch, "lab.db")
	if err := p.records.SaveTo(ctx, saved); err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(filepath.Join(c.LogDir, "checkpoint.cosigned"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", err
	}
	return []daemon.Piece{{Name: databasePiece, Path: saved}}, string(text), nil
}

// idle locks the log's folder as whoever writes to it does.
func (c *Config) idle() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.LogDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w (another labd has the log open)", daemon.ErrRunning)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Accept implements daemon.Keeper: the log must be whole, and no older than what the witness and every custodian that
// answers have seen. The witness must answer.
func (c *Config) Accept(ctx context.Context, env daemon.Env, unpacked map[string]string, b *daemon.Backup) (load func(context.Context) error, err error) {
	p, end, err := c.open(ctx, env)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	signed, err := readSigned(unpacked["roster"])
	if err != nil {
		return nil, err
	}
	if p.roster, err = operators.OpenRoster(signed, c.root); err != nil {
		return nil, err
	}
	if unpacked["log_dir"] == "" || unpacked[databasePiece] == "" {
		return nil, errors.New("it has no log or no metadata")
	}
	if b.Checkpoint != "" {
		if err := p.current(ctx, unpacked["log_dir"]); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error { return c.load(ctx, env, unpacked[databasePiece]) }, nil
}

// current compares an unpacked log with what others have seen of it.
func (p *plane) current(ctx context.Context, dir string) error {
	keys, err := audit.ParseKeys(p.roster.Log, p.roster.Witness)
	if err != nil {
		return err
	}
	if _, err := audit.Fsck(ctx, dir, keys); err != nil {
		return err
	}
	extends := func(who string, seen enclave.Checkpoint) error {
		_, err := audit.Extends(dir, keys, seen)
		if errors.Is(err, audit.ErrSplitView) {
			err = fmt.Errorf("%w: %s: %w", daemon.ErrStale, who, err)
		}
		return err
	}
	conn, err := p.dial(p.cfg.Witness, witnessRole)
	if err != nil {
		return err
	}
	size, err := witness.NewClient(conn, keys.Witness).Size(ctx)
	if err != nil {
		return fmt.Errorf("asking the witness what it has seen: %w", err)
	}
	have, err := audit.Extends(dir, keys, enclave.Checkpoint{})
	if err == nil && size > have.Size {
		err = fmt.Errorf("%w: the witness has seen %d entries, the backup's log has %d", daemon.ErrStale, size, have.Size)
	}
	if err != nil {
		return err
	}
	for _, a := range p.cfg.Custodians {
		seen, err := p.seenBy(ctx, a)
		if err != nil {
			p.env.Logger.WarnContext(ctx, "cannot ask a custodian what it has seen of the log", "custodian", a.Name, "error", err)
			continue
		}
		if err := extends("custodian "+a.Name, seen); err != nil {
			return err
		}
	}
	return nil
}

// seenBy asks a custodian how far it has followed the log.
func (p *plane) seenBy(ctx context.Context, a Address) (enclave.Checkpoint, error) {
	conn, err := p.dial(a, string(operators.RoleCustodian))
	if err != nil {
		return enclave.Checkpoint{}, err
	}
	s, err := custodian.New(a.Name, conn).Status(ctx)
	if err != nil || s.GetLogSize() == 0 {
		return enclave.Checkpoint{}, err
	}
	if len(s.GetLogRoot()) != len(enclave.Digest{}) {
		return enclave.Checkpoint{}, fmt.Errorf("custodian %q names a root of %d bytes", a.Name, len(s.GetLogRoot()))
	}
	return enclave.Checkpoint{Size: s.GetLogSize(), Root: enclave.Digest(s.GetLogRoot())}, nil
}

// load puts the metadata into the configured database, which must be empty.
func (c *Config) load(ctx context.Context, env daemon.Env, saved string) (err error) {
	p, end, err := c.open(ctx, env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := p.openRecords(ctx); err != nil {
		return err
	}
	return p.records.LoadFrom(ctx, saved)
}
