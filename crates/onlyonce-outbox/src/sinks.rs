//! Sinks that come with the crate.

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
