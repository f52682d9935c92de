//! The time, injected: so that tests can move it, and so that no second clock creeps in.
//!
//! Only stores without a database's clock ask here ([`MemoryStore`](crate::store::MemoryStore), SQLite).
//! Deadlines inside a process are monotonic and use `tokio::time`, which paused tests control.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use crate::record::Timestamp;

/// A source of wall-clock time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The moment now.
    fn now(&self) -> Timestamp;
}

/// The operating system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_micros(0).plus(since_epoch)
    }
}

/// A clock that stands still until it is told to move. Clones share the time.
///
/// ```
/// use std::time::Duration;
/// use onlyonce::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::default();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(clock.now().since(before), Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(std::sync::Arc<AtomicI64>);

impl Default for ManualClock {
    /// Starts at 2001-09-09T01:46:40Z.
    fn default() -> Self {
        Self(std::sync::Arc::new(AtomicI64::new(1_000_000_000_000_000)))
    }
}

impl ManualClock {
    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }

    /// Sets the time, backwards too.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_micros(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}
