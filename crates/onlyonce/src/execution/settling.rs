//! Settlement: what the record is told, and how long the client's end may wait for it.
//!
//! The end of a response is held back until its record is settled, so that a client which saw the end
//! gets a replay, not a 409, from an immediate retry. A store that does not answer may not hold it for
//! longer than [`Limits::settle_hold`](crate::Limits::settle_hold): then the client gets its end, and
//! settling goes on here. The claim stays meanwhile, which is safe.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::forwarding::Task;
use crate::in_flight::Presence;
use crate::record::Epoch;
use crate::resources::Resources;
use crate::store::{Settled, Settlement, Store, StoreError};

/// The longest one try may take, whatever time-outs the store has of its own.
pub(super) const TRY_MAX: Duration = Duration::from_secs(10);

/// Pauses between tries: doubling from 20 ms to 2 s, each between half and the whole of it at random.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(20))
    }
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(2));
        let mut random = [0];
        // Jitter is a courtesy: without a random source the whole pause will do.
        let share = getrandom::fill(&mut random).map_or(255, |()| u32::from(random[0]));
        pause / 2 + pause / 2 * share / 255
    }
}

/// What became of a settlement within the time the client's end may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The record has it.
    Settled,
    /// The record belongs to a later epoch: this answer must not look like a success.
    Stale,
    /// The store has not said so yet; settling went on after the client got its end.
    Late,
}

impl From<Settled> for Held {
    fn from(settled: Settled) -> Self {
        match settled {
            Settled::Done => Self::Settled,
            Settled::Stale => Self::Stale,
        }
    }
}

/// The first try to settle, once it did not go well at once.
enum First<A> {
    Pending(A),
    Failed(StoreError),
}

impl Task {
    /// Settles, and calls `deliver` as soon as it is settled or the hold is over, whichever comes first.
    /// Returns when the store has answered, or when drain gives up.
    pub(super) async fn settle_then<T>(
        &mut self,
        epoch: Epoch,
        settlement: &Settlement,
        deliver: impl FnOnce(Held) -> T,
    ) -> T {
        crate::failpoint!("before_settle");
        let begun = Instant::now();
        let Resources {
            store,
            abort,
            limits,
            ..
        } = &*self.guard.resources;
        let hold_end = begun + limits.settle_hold;
        let mut attempt = std::pin::pin!(store.settle(&self.claim, epoch, settlement));
        let until = hold_end.min(begun + TRY_MAX);
        let tried = self.alarm.limit(abort, until, attempt.as_mut());
        let first = match tried.or_aborted().await {
            Ok(Ok(settled)) => {
                crate::failpoint!("after_settle");
                // The twins that wait here look at the record only once it says so.
                drop(self.presence.take());
                return deliver(settled.into());
            }
            Ok(Err(error)) => First::Failed(error),
            Err(_cut) => First::Pending(attempt),
        };
        let presence = self.presence.take();
        let settled = self.settled(epoch, settlement, begun, first);
        // Boxed: it is large, and hardly ever needed.
        Box::pin(self.hold(hold_end, presence, settled, deliver)).await
    }

    /// Waits for a settlement that takes its time, and delivers before its end where that must be.
    async fn hold<T>(
        &self,
        end: Instant,
        presence: Option<Presence>,
        settled: impl Future<Output = Option<Settled>>,
        deliver: impl FnOnce(Held) -> T,
    ) -> T {
        let lease_end = self.deadline.end() + crate::store::operator::LEASE_MARGIN;
        let mut settled = std::pin::pin!(settled);
        if let Ok(settled) = timeout_at(end, &mut settled).await {
            crate::failpoint!("after_settle");
            drop(presence);
            return deliver(settled.map_or(Held::Late, Held::from));
        }
        tracing::warn!(record = %self.claim.id, "the store is slow to settle; the response goes out");
        let delivered = deliver(Held::Late);
        if timeout_at(lease_end, &mut settled).await.is_err() {
            drop(presence);
            settled.await;
        }
        delivered
    }

    /// Goes on settling, until the store has answered, retention is over, or drain gives up (`None`).
    async fn settled(
        &self,
        epoch: Epoch,
        settlement: &Settlement,
        begun: Instant,
        first: First<impl Future<Output = Result<Settled, StoreError>>>,
    ) -> Option<Settled> {
        let tries = async {
            let mut tried = match first {
                First::Pending(attempt) => timeout_at(begun + TRY_MAX, attempt).await,
                First::Failed(error) => Ok(Err(error)),
            };
            let mut backoff = Backoff::default();
            loop {
                match tried {
                    Ok(Ok(settled)) => return settled,
                    Ok(Err(error)) => tracing::warn!(
                        record = %self.claim.id,
                        error = &error as &dyn std::error::Error,
                        "a record is not settled yet"
                    ),
                    Err(_elapsed) => tracing::warn!(
                        record = %self.claim.id,
                        "a record is not settled yet: the store does not answer"
                    ),
                }
                sleep(backoff.next()).await;
                let store = &self.guard.resources.store;
                tried = timeout(TRY_MAX, store.settle(&self.claim, epoch, settlement)).await;
            }
        };
        tokio::select! {
            settled = timeout_at(begun + self.claim.retention, tries) => settled.ok(),
            () = self.gave_up() => None,
        }
    }

    /// Resolves a while after drain has given up: time for one settlement.
    async fn gave_up(&self) {
        let Resources { abort, limits, .. } = &*self.guard.resources;
        abort.said().await;
        sleep(limits.settle_hold).await;
    }
}
