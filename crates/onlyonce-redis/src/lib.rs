//! A read cache in Redis, which several processes share: [`RedisCache`].
//!
//! A retry often comes to another process than the first request did. With this cache that process finds the
//! answer without asking the store. It implements [`SharedCache`], and `onlyonce` asks it behind its own memory.
//!
//! Unlike most uses of Redis in front of a database, nothing here has to be right. Redis may lose, flush,
//! evict or garble what it has, be stopped, slow or frozen, or belong to somebody else by now: a value that is
//! not proven to have been put there under this id, for this generation of the store, is a miss, and so is every
//! failure and every answer that takes too long. Then the store is asked. What Redis does changes how fast
//! an answer comes, never which.
//!
//! * Values are [authenticated](value), with keys that come from the store's generation: nothing to configure.
//! * Looking something up takes [`Settings::with_deadline`] at most, 5 ms by default.
//! * A server that fails five times in a row is left alone for a while, and then tried once.
//! * Keeping something never waits: a queue with a bound takes it, and drops what does not fit.
//!
//! Hazard: whoever can read this Redis can read the answers in it, as whoever can read the store. Neither is
//! encrypted here.
//!
//! ```no_run
//! use onlyonce_redis::{RedisCache, Settings};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings: Settings = "rediss://app:secret@cache.internal/0".parse()?;
//! let cache = RedisCache::new(settings)?;
//! cache.connect().await; // optional: it connects by itself when it is first used
//! # Ok(()) }
//! ```
//!
//! [`SharedCache`]: onlyonce::cached::SharedCache

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
