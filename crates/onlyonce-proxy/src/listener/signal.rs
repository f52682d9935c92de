//! A signal that every connection looks out for at each turn, and that is given once.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio_util::sync::CancellationToken;

/// A [`CancellationToken`] that costs nothing to look at again. Its own future takes a lock at each look,
/// the same one for all connections of all cores.
#[derive(Debug, Clone, Default)]
pub(super) struct Signal {
    given: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Signal {
    /// Gives it, to all clones.
    pub(super) fn give(&self) {
        // In this order: whoever is woken finds that it was given.
        self.given.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Returns once it was given.
    pub(super) async fn given(&self) {
        let mut cancelled = pin!(self.token.cancelled());
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            let is_registered = registered
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()));
            if is_registered && !self.given.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            registered = Some(cx.waker().clone());
            cancelled.as_mut().poll(cx)
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures_util::task::noop_waker;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_woken_whatever_it_was_asked_with_before() {
        let signal = Signal::default();
        let clone = signal.clone();
        let waiting = tokio::spawn(async move {
            let mut given = pin!(clone.given());
            let noop = noop_waker();
            assert!(
                given
                    .as_mut()
                    .poll(&mut Context::from_waker(&noop))
                    .is_pending()
            );
            given.await;
        });
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        signal.give();
        waiting.await.unwrap();
        signal.given().await;
    }
}
