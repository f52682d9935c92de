//! `PostgresStore` on real servers.

mod conformance;
mod fixture;
