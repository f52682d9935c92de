//! The outbox on real servers.

mod anything;
mod append;
mod debezium;
mod drain;
mod faults;
mod fixture;
mod handover;
mod held;
mod late;
mod operator;
mod owners;
mod relay;
mod schema;
mod sinks;
mod upkeep;
