-- The consumers, and how long each knows what it applied. Never delete a row of a consumer that still
-- consumes: with it goes the memory of what was forgotten already.
create table onlyonce_inbox_consumer (
    consumer text        primary key,
    keep     interval    not null,                     -- its dedupe window, as it was opened last
    -- Messages made before it may have been applied and forgotten: they are refused. Only ever rises.
    floor    timestamptz not null default '-infinity'
);

-- Messages whose ids say when they were made (UUIDv7): kept under the id's own day, so that an id is unique
-- over all partitions, and a day leaves by dropping its table. Ids of other kinds cannot be kept so.
create table onlyonce_inbox_message (
    bucket     date        not null, -- the day (UTC) in the id
    consumer   text        not null,
    message_id uuid        not null,
    seen_at    timestamptz not null default statement_timestamp(),
    result     bytea,                -- what applying it came to, as JSON, where that is kept
    primary key (bucket, consumer, message_id)
) partition by range (bucket);

-- Messages with ids of any other kind: deleted a batch at a time.
create table onlyonce_inbox_foreign (
    consumer   text        not null,
    message_id text        not null,
    seen_at    timestamptz not null, -- or made, by a clock that is ahead of ours
    result     bytea,
    primary key (consumer, message_id)
) with (autovacuum_vacuum_scale_factor = 0.02);

create index onlyonce_inbox_foreign_seen on onlyonce_inbox_foreign (consumer, seen_at);

-- For consumers that drop what was overtaken: up to where each key is. One row for each key.
create table onlyonce_inbox_order (
    consumer text   not null,
    key      text   not null,
    sequence bigint not null,
    primary key (consumer, key)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
