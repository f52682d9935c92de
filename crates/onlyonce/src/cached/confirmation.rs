//! A store's word on its generation and time, and how long it can be relied on.

use std::time::Duration;

use tokio::time::Instant;

use crate::record::Timestamp;
use crate::store::{Claim, Confirmed, Generation};

/// How long a store's word is taken for the present, counted from before it was asked.
///
/// Shorter than [`FREED_REST`](crate::store::operator::FREED_REST), by what may lie between a look at this and
/// the moment at which the answer is on its way.
pub const CONFIRMED_FOR: Duration = Duration::from_secs(2);

/// What a store said, and when by this process's monotonic clock.
///
/// The store's clock was read at some moment between the two; both bounds below hold for every such moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmation {
    confirmed: Confirmed,
    sent: Instant,
    received: Instant,
}

impl Confirmation {
    pub(crate) fn new(confirmed: Confirmed, sent: Instant, received: Instant) -> Self {
        Self {
            confirmed,
            sent,
            received,
        }
    }

    /// A decision that was committed before the question was sent would show in it: so whoever relies on it
    /// now is at most this much behind.
    pub(crate) fn is_current(&self) -> bool {
        self.sent.elapsed() < CONFIRMED_FOR
    }

    pub(crate) fn generation(&self) -> &Generation {
        &self.confirmed.generation
    }

    /// What is left until a moment of the store's clock, at the least: as if it had been read at once.
    pub(crate) fn remaining(&self, until: Timestamp) -> Duration {
        let latest_now = self.confirmed.now.plus(self.sent.elapsed());
        until.since(latest_now)
    }

    /// When the record of a claim expires, at the earliest: as if the claim had been written at the moment it
    /// was asked for, and the store's clock read at the last.
    pub(crate) fn expiry_of(&self, claim: &Claim) -> Timestamp {
        let ago = self.received.saturating_duration_since(claim.asked_at);
        self.confirmed.now.minus(ago).plus(claim.retention)
    }
}
