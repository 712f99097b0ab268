-- Statements on their way into the log. One that reached the log and not the table of statements, because its process died
-- in between, is stored from here by whichever process comes next.

-- +goose Up
CREATE TABLE pending (
    kind     TEXT   NOT NULL,
    digest   TEXT   NOT NULL CHECK (length(digest) = 71),
    envelope BYTEA  NOT NULL,
    recorded BIGINT NOT NULL,
    PRIMARY KEY (kind, digest)
);

-- +goose Down
DROP TABLE pending;
