//! What a client sees on the wire, and what the service behind it gets: one module per letter of the
//! project's list of behaviours (`docs/behaviour.md` names each, and the test that shows it).
//!
//! Every test runs three ways, over TCP, with the exact bytes that it wants to send: with the built binary in front of
//! a service that counts its effects; with the plain layer around the same service as an axum app; and with the
//! same-transaction layer, where each effect is a row in Postgres too. `differences.rs` is the whole list of what cannot
//! be asked of a layer, and of what a transaction that rolled back changes.
//!
//! What the guard says about itself proves nothing: effects and bytes do.

mod app;
mod differences;
mod front;
mod shop;
mod support;

mod alike;
mod clients;
mod documented;
mod errors;
mod expiry;
mod first;
mod framing;
mod in_flight;
mod isolation;
mod keys;
mod methods;
mod outcomes;
mod protocol;
mod proxy;
mod replay;
mod required;
mod reuse;
