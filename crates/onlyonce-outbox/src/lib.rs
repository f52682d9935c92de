//! [relay]: Relay
#![doc = include_str!("../README.md")]
//!
//! # How it fits together
//!
//! | | |
//! |---|---|
//! | [`Event`] | what is told; topic and key say in which order |
//! | [`Buffer`], [`append()`] | into the caller's transaction, as its last statement |
//! | [`Relay`], [`RelayOptions`] | from there to a [`Sink`]; [`sinks`] has those that come with the crate |
//! | [`Wake`] | tells relays in the same process of a commit |
//! | [`dead`], [`replay`], [`status`] | what an operator looks at, and decides |
//! | [`inbox`], [`standard_webhooks`] | the other side |
//! | [`partition`], [`retention`] | what the tables need, where no relay is their owner |
//!
//! # How a relay reads
//!
//! Transactions commit in another order than they draw numbers, so "above the last number" loses events, and "older than
//! the oldest open transaction" waits for whoever holds one open, anywhere in the cluster. A batch is what one snapshot
//! sees and an earlier one did not, as in PgQ (Skype, 2007). Within it a key's events are in the order of their numbers,
//! which is that of the commits because [`append()`] locks the key before it draws a number. Nothing is written to an
//! event, so there is nothing for vacuum to do, and a snapshot that is held open elsewhere costs nothing.
//!
//! # Hazards
//!
//! - **Events that were emitted and not flushed are lost.** [`Buffer`] is for those who have no layer that flushes;
//!   `onlyonce-axum` has.
//! - **Behind a pooler in transaction mode** (PgBouncer) a relay has to be told of it: [`Connector::with_pooler`], or
//!   `pooler=transaction` in its URL.
//! - **A sink's name is its identity.** Under another one it starts from the beginning, and the days of an abandoned
//!   one are kept for it for ever; [`status::status`] shows who pins them.
//! - **A stranger's insertion** into `onlyonce_outbox_event` without the lock of [`append()`] can be delivered after a later
//!   event of its key.

pub mod cloud_event;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dead;
pub mod inbox;
pub mod partition;
pub mod replay;
pub mod retention;
pub mod schema;
pub mod sinks;
pub mod standard_webhooks;
pub mod status;

mod append;
mod buffer;
mod connector;
mod envelope;
mod error;
mod event;
mod relay;
mod restore;
mod shard;
mod sink;
mod sql;
mod transaction;
mod versions;
mod wake;

pub use self::append::{Appended, Appender, Origin, append};
pub use self::buffer::Buffer;
pub use self::connector::Connector;
pub use self::envelope::Envelope;
pub use self::error::{Error, is_transient};
pub use self::event::Event;
pub use self::relay::{Monitor, OnDead, Relay, RelayOptions, RelayStats, Start};
pub use self::schema::migrate;
pub use self::shard::SHARDS;
pub use self::sink::{Ack, Sink, SinkError};
pub use self::wake::Wake;
