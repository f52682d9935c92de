//! A transactional outbox on Postgres, the relay that empties it, and the consumer's [`inbox`].
//!
//! A service that writes to its database and then tells a broker can crash in between: the write is there and
//! nobody hears of it. Telling first is no better. Here events are rows of the same transaction, and a relay
//! publishes them once it has committed: they go out if, and only if, it commits.
//!
//! # What is promised
//!
//! Every event committed with your transaction is delivered to each sink **at least once**. Events with the
//! same topic and key are first delivered in commit order. An event that cannot be delivered holds back its own
//! key and nothing else. Nothing is removed before every sink has passed it. A consumer that uses the inbox
//! applies each event's database effect once, while the event is younger than the inbox remembers.
//!
//! Not promised: that nothing comes twice, order across keys, or the order of what comes again. A sink's word
//! is taken: what a broker confirms and then loses can be sent again with [`replay`], as long as it is kept. And
//! a database that loses acknowledged commits in a failover loses their events with them, some of which may
//! have gone out.
//!
//! # Use
//!
//! ```no_run
//! use onlyonce_outbox::{Buffer, Event, Relay, RelayOptions, Wake, sinks::Stdout};
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! // Once, or at each start: makes the tables, and partitions for a week.
//! onlyonce_outbox::migrate(&mut *pool.acquire().await?).await?;
//!
//! // In each transaction.
//! let mut tx = pool.begin().await?;
//! let mut outbox = Buffer::default();
//! sqlx::query("insert into payments (id, amount) values (4711, 1200)").execute(&mut *tx).await?;
//! let charge = serde_json::json!({ "amount": 1200 });
//! outbox.emit(Event::new("payments", 4711).kind("charged").json(&charge)?);
//! outbox.flush(&mut tx, None).await?; // the last statement before the commit
//! tx.commit().await?;
//!
//! // In the same process, in one of its own, or in several.
//! let wake = Wake::default(); // wake.wake() after a commit saves the wait for the next look
//! let options = RelayOptions::default().wake(wake.clone());
//! let relay = Relay::new(&pool, Stdout::new("/payments"), options)?;
//! relay.run(async { /* until this is ready */ }).await?;
//! # Ok(()) }
//! ```
//!
//! Events that were emitted and not flushed are lost; [`Buffer`] is for those who have no layer that flushes.
//!
//! # Where it can be used
//!
//! Postgres 14 and later, and nothing that only speaks its protocol: the relay reads by snapshots and
//! transaction ids. PgBouncer in transaction mode is fine; relays have to be told of it
//! ([`Connector`], `pooler=transaction`). Any language may insert into `onlyonce_outbox_event`; order within a key
//! then needs the lock that [`append()`] takes. The view `onlyonce_outbox_debezium` has the columns that Debezium's
//! outbox event router expects, for those who would rather read the log.
//!
//! Whoever appends needs `insert` on `onlyonce_outbox_event` and `usage` on `onlyonce_outbox_sequence`. A relay needs
//! `select`, `insert`, `update` and `delete` on all tables of that prefix and `select` on the sequence. The days ahead
//! are made, and old ones dropped, by the tables' owner only: a relay that is not the owner says so, and somebody has to
//! call [`partition::prepare`] and [`retention::sweep`] now and then.
//!
//! # Cost
//!
//! One statement more in each transaction that has events. A relay that finds nothing looks four times a
//! second, 0.15 ms each, whatever the table holds and whoever keeps old snapshots open. Events are never
//! updated, and leave by whole days.

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
