//! `PostgresStore` on real servers.

mod conformance;
mod connections;
mod durability;
mod failover;
mod fixture;
mod groups;
mod locks;
mod poolers;
mod rests;
mod schema;
mod tables;
