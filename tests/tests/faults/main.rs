//! What may go wrong, made to go wrong on purpose: against the built binary, over real sockets, on real
//! stores. One named test for each fault, `f1` to `f25` as in the catalogue of faults, each on every store
//! that the fault applies to.
//!
//! The evidence is the upstream's: it counts its effects, and the guard's own word counts for nothing.
//! Beside that, each test asserts what the clients were told.
//!
//! Here the proxy is a process of its own, built with failpoints: `cargo xtask test` does so.

mod load;
mod setup;

mod cut_at_random;
mod drained;
mod f01_one_key_many_clients;
mod f02_f03_f04_killed;
mod f05_client_leaves;
mod f06_lost_reply;
mod f08_postgres_restarts;
mod f11_standby_gone;
mod f12_black_hole;
mod f14_full_or_read_only;
mod f17_frozen;
mod f19_f20_upstream;
mod f23_slow_clients;
mod f24_hostile_keys;
mod f25_expiry;
mod freed_with_warm_caches;
mod killed_at_random;
mod missing_rows;
mod shared_cache;
