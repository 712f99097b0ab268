-- +goose Up
CREATE TABLE log_entries (
    log_index BIGINT PRIMARY KEY,
    type      TEXT   NOT NULL,
    subject   TEXT   NOT NULL CHECK (length(subject) = 71),
    job       TEXT   NOT NULL,
    entry     BYTEA  NOT NULL
);

CREATE INDEX log_entries_by_subject ON log_entries (subject, log_index);
CREATE INDEX log_entries_by_job ON log_entries (job, log_index);

CREATE TABLE settings (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value BYTEA NOT NULL
);

-- +goose Down
DROP TABLE settings;
DROP TABLE log_entries;
