//! The layer around a service that counts its effects: no sockets, a memory store, paused time.
//!
//! One module per promise. The same behaviours over real sockets are in the workspace's `tests/`.

#![allow(missing_docs, unreachable_pub, reason = "a test")]

mod support;

mod bodies;
mod claims;
mod disclosure;
mod duplicates;
mod endings;
mod known;
mod outcomes;
mod readiness;
