-- +goose Up
CREATE TABLE jobs (
    id            TEXT    PRIMARY KEY,
    operator      TEXT    NOT NULL,
    analyst       TEXT    NOT NULL,
    scenario      TEXT    NOT NULL CHECK (length(scenario) = 71),
    query         TEXT    NOT NULL,
    epsilon_micro INTEGER NOT NULL,
    state         TEXT    NOT NULL,
    stage         TEXT    NOT NULL,
    percent       INTEGER NOT NULL CHECK (percent BETWEEN 0 AND 100),
    plan          TEXT    CHECK (length(plan) = 71),
    receipt       TEXT    CHECK (length(receipt) = 71),
    release       TEXT    CHECK (length(release) = 71),
    reason        TEXT    NOT NULL,
    isolation     TEXT    NOT NULL,
    attempts      INTEGER NOT NULL,
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL
) STRICT;

CREATE INDEX jobs_by_operator ON jobs (operator, id);
CREATE INDEX jobs_by_scenario ON jobs (scenario, id);
CREATE INDEX jobs_by_state ON jobs (state, id);

CREATE TABLE job_steps (
    job        TEXT    NOT NULL REFERENCES jobs (id),
    seq        INTEGER NOT NULL,
    from_state TEXT    NOT NULL,
    event      TEXT    NOT NULL,
    to_state   TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (job, seq)
) STRICT;

CREATE TABLE releases (
    job          TEXT    PRIMARY KEY REFERENCES jobs (id),
    release      TEXT    NOT NULL CHECK (length(release) = 71),
    sealed_table BLOB    NOT NULL,
    made         INTEGER NOT NULL
) STRICT;

-- +goose Down
DROP TABLE releases;
DROP TABLE job_steps;
DROP TABLE jobs;
