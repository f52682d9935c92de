-- One row for each key. Narrow, and without an index on any column that a completion changes, so that a
-- completion is a heap-only update; the fill factor leaves room for it on the row's own page.
create table onlyonce_records (
    id          uuid        primary key,
    token       uuid        not null, -- the owner's, random for each request
    claimed_at  timestamptz not null,
    lease_until timestamptz not null,
    expires_at  timestamptz not null, -- fixed at the claim
    settled_at  timestamptz,          -- its UTC day says which partition holds the response
    epoch       integer     not null,
    state       smallint    not null, -- 0 free, 1 in flight, 2 completed, 3 unknown
    fingerprint bytea       not null,
    credential  bytea       not null
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 2000
);

create index onlyonce_records_expires_at on onlyonce_records (expires_at);

-- Responses are inserted once and never changed. They leave by the day: a partition is dropped when the
-- last of its records is past retention. Partitions are made ahead and attached, and there is no default
-- partition, since attaching would scan it. No foreign key: it would lock records on each insertion.
create table onlyonce_responses (
    day        date        not null,
    token      uuid        not null,
    epoch      integer     not null,
    expires_at timestamptz not null,
    response   bytea       not null,
    primary key (token, epoch, day) -- found by token in its partition, which is named by the day
) partition by range (day);

do $$
begin
    alter table onlyonce_responses alter column response set compression lz4;
exception when feature_not_supported then
    null; -- a server built without lz4 compresses with pglz
end
$$;

-- Until when the responses of a day that is over are needed; found out once, by the sweep.
create table onlyonce_response_days (
    day        date        primary key,
    keep_until timestamptz not null
);

-- What was settled as unknown, and when: kept after an operator resolved it, until retention ends.
create table onlyonce_unknown (
    id         uuid        not null,
    epoch      integer     not null,
    since      timestamptz not null,
    expires_at timestamptz not null,
    primary key (id, epoch)
);

create index onlyonce_unknown_expires_at on onlyonce_unknown (expires_at);
