-- What the relays of a sink were told of its receivers, for whoever looks at the outbox while none runs.
create table onlyonce_outbox_sink (
    sink          text primary key,
    dedupe_window interval          -- for how long receivers know repetitions; null: for ever
);

-- The oldest event that is parked and not dead.
create index onlyonce_outbox_parked_age on onlyonce_outbox_parked (sink, created_at) where state < 2;
