-- Who drives a job: one process at a time, by a lease that it renews. Times are microseconds since 1970 by the clock of
-- the database.

-- +goose Up
CREATE TABLE drives (
    job      TEXT COLLATE "C" PRIMARY KEY REFERENCES jobs (id),
    drive    BIGINT NOT NULL, -- number of the last taking or offer: the holder's fence
    holder   TEXT   NOT NULL, -- empty: nobody
    until    BIGINT NOT NULL, -- end of the lease, or when the job may be taken up
    failures BIGINT NOT NULL  -- drives in a row that did not bring it to an end
);

INSERT INTO drives (job, drive, holder, until, failures)
SELECT id, 0, '', 0, 0 FROM jobs WHERE state IN ('planned', 'running', 'computed', 'opening');

-- +goose Down
DROP TABLE drives;
