//! What a relay counts, from its start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a relay has done since it was made. Numbers only grow, but for the last six.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayStats {
    /// Messages that the sink took.
    pub delivered: u64,
    /// Of those, messages that the sink said it had already.
    pub duplicates: u64,
    /// Messages that were sent again after a failure.
    pub retried: u64,
    /// Failed tries.
    pub failures: u64,
    /// Events that were parked because of a failure of their own.
    pub parked: u64,
    /// Events that were parked behind one of the same key.
    pub behind: u64,
    /// Events that became dead letters.
    pub dead: u64,
    /// Batches that were sent.
    pub batches: u64,
    /// The time that their sending took, together.
    pub publishing: Duration,
    /// Looks at the database for new events.
    pub polls: u64,
    /// The time that they took, together.
    pub polling: Duration,
    /// Shards that were taken over.
    pub leases_taken: u64,
    /// Shards that were lost to another relay, or with the connection.
    pub leases_lost: u64,
    /// Connections to the database that were lost, or could not be had.
    pub database_failures: u64,
    /// Times that the circuit breaker opened.
    pub breaker_opened: u64,
    /// Times that everything was sent again after the database was restored from elsewhere.
    pub resyncs: u64,
    /// Shards that are held now.
    pub shards: u64,
    /// Events in memory now.
    pub in_memory: u64,
    /// Transactions that were open at the last look.
    pub open_transactions: u64,
    /// Shards that are not read because a key has too many events waiting.
    pub paused: u64,
    /// 1 while the circuit breaker is open.
    pub breaker_open: u64,
    /// 1 while the oldest event that waits is older than half of the receivers' dedupe window
    /// ([`RelayOptions::receivers_remember`](crate::RelayOptions::receivers_remember)).
    pub late: u64,
}

macro_rules! counters {
    ($($count:ident),*; $($time:ident),*) => {
        /// The same, written by the relay and read by others.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $count: Count,)*
            $(pub(super) $time: Count,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> RelayStats {
                RelayStats {
                    $($count: self.$count.get(),)*
                    $($time: Duration::from_micros(self.$time.get()),)*
                }
            }
        }
    };
}

counters!(
    delivered, duplicates, retried, failures, parked, behind, dead, batches, polls, leases_taken,
    leases_lost, database_failures, breaker_opened, resyncs, shards, in_memory, open_transactions,
    paused, breaker_open, late;
    publishing, polling
);

/// A number that one task writes.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(wide(more), Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: usize) {
        self.0.store(wide(value), Ordering::Relaxed);
    }

    pub(super) fn add_time(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(micros, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
