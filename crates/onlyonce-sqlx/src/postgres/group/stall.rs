//! Whether a group hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A group that is on its way for longer than this is not waited for by those behind it. Long enough that
/// load alone does not break groups up.
const STALLED_AFTER: Duration = Duration::from_millis(250);

/// Since when a group's statement is on its way. Waiting for a connection does not count: calls that go on
/// alone wait for the same connections, and would keep the next group from getting one.
#[derive(Debug, Default)]
pub(super) struct OnItsWay {
    since: Mutex<Option<Instant>>,
    /// What whoever sends the group saw last; read by each call.
    stalled: AtomicBool,
}

/// A statement that is on its way until this is dropped.
pub(super) struct Sent<'a>(&'a OnItsWay);

impl OnItsWay {
    pub(super) fn sent(&self) -> Sent<'_> {
        *self.since() = Some(Instant::now());
        Sent(self)
    }

    /// Looks at the time: whether the group hangs.
    pub(super) fn look(&self) -> bool {
        let since = self.since();
        let stalled = since.is_some_and(|since| since.elapsed() > STALLED_AFTER);
        // While the guard is held: a statement that ends meanwhile has the last word.
        self.stalled.store(stalled, Ordering::Release);
        stalled
    }

    /// Whether the group hung when it was looked at last.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        // One value is written at once.
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let mut since = self.0.since();
        *since = None;
        self.0.stalled.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_sent_stalls_and_only_until_it_ends() {
        let on_its_way = OnItsWay::default();
        assert!(!on_its_way.look());
        let sent = on_its_way.sent();
        assert!(!on_its_way.look());
        tokio::time::advance(STALLED_AFTER * 2).await;
        assert!(on_its_way.look() && on_its_way.is_stalled());
        drop(sent);
        assert!(!on_its_way.is_stalled() && !on_its_way.look());
    }
}
