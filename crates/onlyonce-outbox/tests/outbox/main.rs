//! The outbox on real servers.

mod append;
mod fixture;
mod operator;
mod relay;
mod schema;
mod sinks;
