//! The proxy: listens, guards, forwards.
//!
//! The binary `onlyonce` is [`cli::main`] and nothing more; the crate is a library so that tests and the
//! demo can run the whole process, [`app::App`], on ports of their own.
//!
//! A request comes in at the [`listener`], passes the guard ([`onlyonce::IdempotencyLayer`]) and is
//! [forwarded](forward) at most once. [`config`] says how, [`store`] where records are kept, [`readiness`]
//! and [`admin`] whether all of that works now. [`relay`] is the other process that the binary can be: it
//! publishes the events of an outbox.

mod activity;
pub mod admin;
mod alarm;
pub mod app;
pub mod cli;
pub mod config;
mod demo;
mod descriptors;
pub mod forward;
pub mod headers;
pub mod listener;
mod outbox;
mod problem;
pub mod readiness;
mod records;
pub mod relay;
pub mod signal;
pub mod store;
mod table;
pub mod telemetry;
mod text;
mod upgrade;
mod upkeep;
pub mod workers;
