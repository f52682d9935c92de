//! What a client sees on the wire, and what the service behind it gets: one module per letter of the
//! project's list of behaviours (`docs/behaviour.md` names each, and the test that shows it).
//!
//! Every test runs the built binary in front of a service that counts its effects, over TCP, with the
//! exact bytes it wants to send. What the proxy says about itself proves nothing: effects and bytes do.

mod support;

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
