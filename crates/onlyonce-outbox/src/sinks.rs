//! Sinks that come with the crate.

mod memory;
#[cfg(feature = "redis")]
mod redis;
mod stdout;
#[cfg(feature = "webhook")]
mod webhook;

pub use self::memory::Memory;
#[cfg(feature = "redis")]
pub use self::redis::RedisStreams;
pub use self::stdout::Stdout;
#[cfg(feature = "webhook")]
pub use self::webhook::Webhook;
