-- +goose Up
CREATE TABLE jobs (
    id            TEXT COLLATE "C" PRIMARY KEY,
    operator      TEXT   NOT NULL,
    analyst       TEXT   NOT NULL,
    scenario      TEXT   NOT NULL CHECK (length(scenario) = 71),
    query         TEXT   NOT NULL,
    epsilon_micro BIGINT NOT NULL,
    state         TEXT   NOT NULL,
    stage         TEXT   NOT NULL,
    percent       BIGINT NOT NULL CHECK (percent BETWEEN 0 AND 100),
    plan          TEXT   CHECK (length(plan) = 71),
    receipt       TEXT   CHECK (length(receipt) = 71),
    release       TEXT   CHECK (length(release) = 71),
    reason        TEXT   NOT NULL,
    isolation     TEXT   NOT NULL,
    attempts      BIGINT NOT NULL,
    created       BIGINT NOT NULL,
    updated       BIGINT NOT NULL
);

CREATE INDEX jobs_by_operator ON jobs (operator, id);
CREATE INDEX jobs_by_scenario ON jobs (scenario, id);
CREATE INDEX jobs_by_state ON jobs (state, id);

CREATE TABLE job_steps (
    job        TEXT COLLATE "C" NOT NULL REFERENCES jobs (id),
    seq        BIGINT NOT NULL,
    from_state TEXT   NOT NULL,
    event      TEXT   NOT NULL,
    to_state   TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    PRIMARY KEY (job, seq)
);

CREATE TABLE releases (
    job          TEXT COLLATE "C" PRIMARY KEY REFERENCES jobs (id),
    release      TEXT   NOT NULL CHECK (length(release) = 71),
    sealed_table BYTEA  NOT NULL,
    made         BIGINT NOT NULL
);

-- +goose Down
DROP TABLE releases;
DROP TABLE job_steps;
DROP TABLE jobs;
