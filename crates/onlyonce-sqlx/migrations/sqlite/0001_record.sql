-- A claim. Times are microseconds since the Unix epoch, by the clock of the process that wrote them.
-- Keyed by rowid: the ids are random, and a table ordered by them would touch a page of its own for each.
create table record (
    number      integer primary key,
    id          blob    not null check (length(id) = 16),
    token       blob    not null check (length(token) = 16),
    epoch       integer not null check (epoch > 0),
    state       integer not null, -- 0 free, 1 in flight, 2 completed, 3 unknown
    fingerprint blob    not null check (length(fingerprint) = 32),
    credential  blob    not null check (length(credential) = 32),
    claimed_at  integer not null,
    lease_until integer not null,
    settled_at  integer,
    expires_at  integer not null
) strict;

create unique index record_id on record (id);
create index record_expires_at on record (expires_at);

-- Apart from the record, so that claims and sweeps do not read past bodies.
create table response (
    record integer primary key,
    body   blob not null
) strict;

-- Numbers are used again: a response that stayed behind would become the next record's.
create trigger record_deleted after delete on record begin
    delete from response where record = old.number;
end;
