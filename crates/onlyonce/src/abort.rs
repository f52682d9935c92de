//! The word that drain gives up on what is still running.
//!
//! Unlike a `CancellationToken`, it can be asked without a lock, and it can be listened to from the moment
//! when a request first has to wait to its end, at the cost of entering and leaving one list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Said once, for good.
#[derive(Debug, Default)]
pub(crate) struct Abort {
    said: AtomicBool,
    listeners: Arc<Notify>,
}

impl Abort {
    /// Says it, to all that listen and all that will ask.
    pub(crate) fn say(&self) {
        self.said.store(true, Ordering::SeqCst);
        self.listeners.notify_waiters();
    }

    pub(crate) fn is_said(&self) -> bool {
        self.said.load(Ordering::SeqCst)
    }

    /// Resolves when it is said from now on. What was said before has to be asked for, *after* this call.
    pub(crate) fn listen(&self) -> OwnedNotified {
        Arc::clone(&self.listeners).notified_owned()
    }

    /// Resolves once it is said.
    pub(crate) async fn said(&self) {
        let said = self.listen();
        if !self.is_said() {
            said.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_listens_hears_it_and_who_comes_later_can_ask() {
        let abort = Abort::default();
        let (early, listening) = (abort.said(), abort.listen());
        assert!(!abort.is_said());
        abort.say();
        let all = async {
            listening.await;
            early.await;
            abort.said().await;
        };
        let heard = tokio::time::timeout(Duration::from_secs(10), all).await;
        assert!(heard.is_ok() && abort.is_said());
    }
}
