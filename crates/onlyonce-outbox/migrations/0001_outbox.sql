-- Events are inserted once and never changed. They leave by the day: a partition is detached and dropped when
-- it is older than the retention and every sink has passed it. Partitions are made ahead and attached; there
-- is no default partition, since attaching would scan it.
create sequence onlyonce_outbox_sequence as bigint cache 1;

create table onlyonce_outbox_event (
    created_at   timestamptz not null default statement_timestamp(), -- of the appending statement
    -- Before the number: that a transaction has an id before it has numbers is what lets relays read in the
    -- order of the numbers.
    xid          xid8        not null default pg_current_xact_id(),
    -- Drawn while the key's lock is held, so that within a key its order is that of the commits.
    id           bigint      not null default nextval('onlyonce_outbox_sequence'),
    shard        smallint    not null, -- 0 to 63, from topic and key
    event_id     uuid        not null, -- what receivers know a repetition by
    topic        text        not null,
    key          text,                 -- null: unordered
    kind         text        not null,
    content_type text        not null,
    headers      jsonb       not null default '{}',
    payload      bytea       not null,
    origin_scope text,                 -- which idempotency record made it, for audits
    origin_key   text,
    primary key (id, created_at) -- a page is read in the order of ids
) partition by range (created_at);

alter sequence onlyonce_outbox_sequence owned by onlyonce_outbox_event.id;

-- What became of the transactions that were open at a snapshot.
create index onlyonce_outbox_event_xid on onlyonce_outbox_event (xid);

do $$
begin
    alter table onlyonce_outbox_event alter column payload set compression lz4;
exception when feature_not_supported then
    null; -- a server built without lz4 compresses with pglz
end
$$;

-- How far each sink is, shard by shard, and who works on it.
create table onlyonce_outbox_cursor (
    sink        text        not null,
    shard       smallint    not null,
    done        pg_snapshot not null,          -- what is visible in it was delivered or parked
    done_floor  bigint      not null default 0, -- transactions that are not in it, and were not open, are above
    open        pg_snapshot,                   -- the batch that is being read: visible here, and not in done
    open_floor  bigint      not null default 0,
    last_id     bigint      not null default 0, -- up to where of that batch
    moved_at    timestamptz not null default statement_timestamp(),
    owner       uuid,
    epoch       bigint      not null default 0, -- raised by each new owner: a late write changes nothing
    lease_until timestamptz not null default '-infinity',
    crashes     smallint    not null default 0, -- owners that vanished since it moved last
    primary key (sink, shard)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500);

-- The relays that are alive: shards are shared out among them.
create table onlyonce_outbox_relay (
    sink        text        not null,
    relay       uuid        not null,
    alive_until timestamptz not null,
    primary key (sink, relay)
);

-- What could not be delivered, and what waits behind it, with all that a delivery needs: the partition it came
-- from may leave.
create table onlyonce_outbox_parked (
    sink            text        not null,
    id              bigint      not null,
    shard           smallint    not null,
    event_id        uuid        not null,
    topic           text        not null,
    key             text,
    kind            text        not null,
    content_type    text        not null,
    headers         jsonb       not null,
    payload         bytea       not null,
    created_at      timestamptz not null,
    state           smallint    not null, -- 0 to be tried again, 1 behind its key's first, 2 dead and its key waits, 3 dead and passed over
    attempts        integer     not null default 0, -- counted before each
    next_at         timestamptz not null default statement_timestamp(),
    first_failed_at timestamptz,
    last_error      text,
    primary key (sink, id)
);

create index onlyonce_outbox_parked_due on onlyonce_outbox_parked (sink, shard, next_at) where state = 0;
create index onlyonce_outbox_parked_key on onlyonce_outbox_parked (sink, topic, key, id) where state < 3;

-- Which database this is. A dump that was restored elsewhere brings transaction ids that mean nothing there.
create table onlyonce_outbox_cluster (
    only_row          boolean primary key default true check (only_row),
    system_identifier bigint  not null,
    database          oid     not null
);

insert into onlyonce_outbox_cluster (system_identifier, database)
select system_identifier, (select oid from pg_database where datname = current_database())
from pg_control_system();

-- The names that Debezium's outbox event router expects.
create view onlyonce_outbox_debezium as
select event_id as id, topic as aggregatetype, key as aggregateid, kind as type, payload, headers, created_at
from onlyonce_outbox_event;
