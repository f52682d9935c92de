//! The webhook sink, against a receiver that checks signatures.

mod conforms;
mod receiver;
mod wire;
