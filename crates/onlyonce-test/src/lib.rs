//! What onlyonce's tests are made of: a legacy upstream that counts its effects, a client that sends
//! exact bytes, faults between a store and its database, throw-away servers, and the suite that every
//! store must pass.
//!
//! Nothing here is published, and everything panics on failure: it is for tests. Nothing sleeps or
//! retries: whatever happens by itself can be awaited ([`event`]). What cannot be had (a server that is
//! not installed) panics with one line that says how to get it, since a skipped test proves nothing.

pub mod client;
pub mod conformance;
mod daemon;
pub mod detour;
pub mod dice;
pub mod event;
pub mod fault;
pub mod http1;
pub mod load;
pub mod nats;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod rabbitmq;
pub mod readme;
pub mod redis;
pub mod upstream;
