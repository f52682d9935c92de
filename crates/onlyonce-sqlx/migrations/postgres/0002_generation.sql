-- One row: which generation the store is in. Every operator's decision replaces it in its own transaction.
create table onlyonce_generation (
    single     boolean primary key default true check (single),
    generation bytea   not null check (length(generation) = 32)
);

insert into onlyonce_generation (generation)
values (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- From when on a record that an operator freed takes claims; null where an owner freed it, or nobody did.
alter table onlyonce_records add column claimable_at timestamptz;
