//! Sinks that come with the crate. Each but [`Stdout`] and [`Memory`] is behind a feature, since it brings a client.
//!
//! What is the same in all of them: a sink is named after its kind, and `named` gives it another name, which two of a kind
//! need; a connection is made when it is first needed, and anew when it broke; an event's id goes along, so that receivers
//! know a repetition; what a receiver will never take is dead at once, and all else is tried again.
//!
//! Hazard: a receiver's word is taken. None of the brokers' own ways to drop repetitions lasts long enough to do without
//! an [inbox](crate::inbox): JetStream's is two minutes by default, the others have none.
//!
//! ```
//! use onlyonce_outbox::{Relay, RelayOptions, sinks::Memory};
//!
//! # fn relays(pool: &sqlx::PgPool) -> Result<(), onlyonce_outbox::Error> {
//! // Each sink gets every event, and each has its own name.
//! let first = Relay::new(pool, Memory::new("accounting"), RelayOptions::default())?;
//! let second = Relay::new(pool, Memory::new("search"), RelayOptions::default())?;
//! # Ok(()) }
//! ```

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "kafka")]
mod kafka;
mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "redis")]
mod redis;
mod stdout;
#[cfg(any(feature = "redis", feature = "webhook"))]
mod trust;
#[cfg(feature = "webhook")]
mod webhook;

#[cfg(feature = "amqp")]
pub use self::amqp::Amqp;
#[cfg(feature = "kafka")]
pub use self::kafka::Kafka;
pub use self::memory::Memory;
#[cfg(feature = "nats")]
pub use self::nats::JetStream;
#[cfg(feature = "redis")]
pub use self::redis::RedisStreams;
pub use self::stdout::Stdout;
#[cfg(feature = "webhook")]
pub use self::webhook::Webhook;

use crate::envelope::Envelope;
use crate::sink::{Ack, SinkError};

/// The results of a batch that failed as a whole, and may be taken at another time.
fn none_taken(batch: &[Envelope], why: &str) -> Vec<Result<Ack, SinkError>> {
    let failure = |_: &Envelope| Err(SinkError::retryable(why));
    batch.iter().map(failure).collect()
}
