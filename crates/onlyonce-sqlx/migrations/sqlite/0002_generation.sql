-- One row: which generation the store is in. Every operator's decision replaces it in its own transaction.
create table generation (
    single     integer primary key check (single = 1),
    generation blob    not null check (length(generation) = 32)
) strict;

insert into generation (single, generation) values (1, randomblob(32));

-- From when on a record that an operator freed takes claims; null where an owner freed it, or nobody did.
alter table record add column claimable_at integer;
