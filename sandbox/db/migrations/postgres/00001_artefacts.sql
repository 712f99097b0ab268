-- Digests are text ("sha256:…"), times are microseconds since 1970 UTC, envelopes are canonical bytes of canon.Signed.
-- Names that are sorted by are collated "C": in the order of their bytes, as SQLite does, wherever the server was made.

-- +goose Up
CREATE TABLE statements (
    seq      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind     TEXT   NOT NULL,
    digest   TEXT   NOT NULL CHECK (length(digest) = 71),
    envelope BYTEA  NOT NULL,
    recorded BIGINT NOT NULL,
    UNIQUE (kind, digest)
);

CREATE TABLE artefacts (
    seq      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind     TEXT   NOT NULL,
    digest   TEXT   NOT NULL CHECK (length(digest) = 71),
    envelope BYTEA  NOT NULL,
    recorded BIGINT NOT NULL,
    UNIQUE (kind, digest)
);

CREATE TABLE datasets (
    name     TEXT COLLATE "C" PRIMARY KEY,
    keyset   TEXT NOT NULL CHECK (length(keyset) = 71),
    manifest TEXT CHECK (length(manifest) = 71)
);

-- +goose Down
DROP TABLE datasets;
DROP TABLE artefacts;
DROP TABLE statements;
