//! The outbox as it is run: `onlyonce relay` and `onlyonce migrate` as processes, several at once, killed, frozen
//! and replaced while writers commit; `f26` and `f27` of the catalogue of faults.
//!
//! The evidence is outside: writers number the events of each key by the order of their commits, under a row's
//! lock, and each receiver keeps a book of what it took. Where a key's first deliveries are 1, 2, 3 up to the last
//! number that was committed, nothing was lost, nothing came that was not committed, and nothing overtook.

mod book;
mod endpoint;
mod shop;
mod writers;

mod f26_frozen;
mod f26_redis;
mod f26_relays;
mod f26_sink_down;
mod f27_migrations;
mod f27_versions;
mod pooled;
