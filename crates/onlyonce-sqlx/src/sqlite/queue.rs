//! A thread that owns a connection, and the bounded queue in front of it.
//!
//! SQLite's calls block, so they stay off the runtime's threads. Nothing here waits: a full queue refuses.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use onlyonce::store::{StoreError, StoreErrorKind};
use tokio::sync::oneshot;

/// Sends to a thread; dropping it ends the thread once the queue is empty, and waits for that.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// `None` only while it is dropped.
    sender: Option<SyncSender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Queue<T> {
    /// Starts the thread.
    pub(super) fn start(
        name: &str,
        places: usize,
        run: impl FnOnce(Receiver<T>) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = sync_channel(places);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(receiver))
            .map_err(|error| StoreError::not_applied(StoreErrorKind::Unavailable, error))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    /// Puts a request into the queue, or says at once that nothing will come of it.
    pub(super) fn push(&self, request: T) -> Result<(), StoreError> {
        let refused = |why: &str| StoreError::not_applied(StoreErrorKind::Unavailable, why);
        let sender = self.sender.as_ref().ok_or_else(|| refused(ENDED))?;
        sender.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => refused("too many requests wait for the SQLite file"),
            TrySendError::Disconnected(_) => refused(ENDED),
        })
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported when it happened, and its requests were answered.
            let _ = thread.join();
        }
    }
}

const ENDED: &str = "the thread that works on the SQLite file has ended";

/// Waits for an answer. A thread that ended without one leaves open what it did.
pub(super) async fn answer<T>(
    receiver: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    receiver
        .await
        .unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Unavailable, ENDED)))
}
