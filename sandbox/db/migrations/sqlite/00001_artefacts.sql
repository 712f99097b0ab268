-- Digests are text ("sha256:…"), times are microseconds since 1970 UTC, envelopes are canonical bytes of canon.Signed.

-- +goose Up
CREATE TABLE statements (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT    NOT NULL,
    digest   TEXT    NOT NULL CHECK (length(digest) = 71),
    envelope BLOB    NOT NULL,
    recorded INTEGER NOT NULL,
    UNIQUE (kind, digest)
) STRICT;

CREATE TABLE artefacts (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT    NOT NULL,
    digest   TEXT    NOT NULL CHECK (length(digest) = 71),
    envelope BLOB    NOT NULL,
    recorded INTEGER NOT NULL,
    UNIQUE (kind, digest)
) STRICT;

CREATE TABLE datasets (
    name     TEXT PRIMARY KEY,
    keyset   TEXT NOT NULL CHECK (length(keyset) = 71),
    manifest TEXT CHECK (length(manifest) = 71)
) STRICT;

-- +goose Down
DROP TABLE datasets;
DROP TABLE artefacts;
DROP TABLE statements;
