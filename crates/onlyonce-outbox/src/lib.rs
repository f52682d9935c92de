//! A transactional outbox on Postgres.
//!
//! A service that writes to its database and then tells a broker can crash in between: the write is there and
//! nobody hears of it. Telling first is no better. Here events are rows of the same transaction, and a relay
//! publishes them once it has committed: they go out if, and only if, it commits.
//!
//! What is promised: every event that was committed is delivered to each sink **at least once**; events of
//! one topic and key are first delivered in the order of their commits; an event that cannot be delivered
//! holds back its own key and nothing else. Not promised: order across keys, or that nothing comes twice.
//!
//! ```no_run
//! use onlyonce_outbox::{Buffer, Event};
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! onlyonce_outbox::migrate(&mut *pool.acquire().await?).await?;
//!
//! let mut tx = pool.begin().await?;
//! let mut outbox = Buffer::default();
//! // … the work itself, on `tx` …
//! outbox.emit(Event::new("payments", 4711).kind("charged").json(&serde_json::json!({ "amount": 1200 }))?);
//! outbox.flush(&mut tx, None).await?; // the last statement before the commit
//! tx.commit().await?;
//! # Ok(()) }
//! ```

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
