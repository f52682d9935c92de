//! The outbox on real servers.

mod append;
mod fixture;
mod schema;
mod sinks;
