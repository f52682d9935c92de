//! [onlyonce]: onlyonce::IdempotencyLayer
#![doc = include_str!("../README.md")]
//!
//! # How
//! [`RedisCache`] implements [`SharedCache`](onlyonce::cached::SharedCache), and `onlyonce` asks it behind its own memory.
//!
//! * Values are [authenticated](value), with keys that come from the store's generation: nothing to configure.
//! * Looking something up takes [`Settings::with_deadline`] at most, 5 ms by default.
//! * A server that fails five times in a row is left alone for a while, and then tried once.
//! * Keeping something never waits: a queue with a bound takes it, and drops what does not fit.

mod breaker;
mod cache;
mod dial;
mod link;
mod puts;
mod settings;
pub mod value;

pub use self::cache::RedisCache;
pub use self::dial::TlsError;
pub use self::settings::{Settings, SettingsError};
