//! The task that has the store confirm its generation, again and again.
//!
//! It starts when somebody first asks, and stops when the last who could ask is gone. While the store does
//! not answer nothing is confirmed, and what is kept of it is neither used nor added to.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::confirmation::{CONFIRMED_FOR, Confirmation};
use crate::store::Cacheable;

/// The pause between two questions. Some may be lost or late before a confirmation runs out.
const PAUSE: Duration = Duration::from_millis(500);

/// What the store said last. Dropping it ends the task.
#[derive(Debug)]
pub(crate) struct Confirmations<S> {
    store: Arc<S>,
    latest: Arc<Latest>,
    stop: CancellationToken,
    _stops: DropGuard,
}

#[derive(Debug, Default)]
struct Latest(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    confirmation: Option<Confirmation>,
    /// Raised by whoever does not trust what is known: answers to questions asked before do not count.
    doubts: u64,
    asking: bool,
}

impl<S> Confirmations<S> {
    pub(crate) fn store(&self) -> &S {
        &self.store
    }
}

impl<S: Cacheable> Confirmations<S> {
    pub(crate) fn new(store: S) -> Self {
        let stop = CancellationToken::new();
        Self {
            store: Arc::new(store),
            latest: Arc::default(),
            _stops: stop.clone().drop_guard(),
            stop,
        }
    }

    /// What can be relied on now; `None` where nothing was confirmed lately.
    ///
    /// The first call starts the task, on the runtime of the caller; so does one after that runtime has ended.
    pub(crate) fn current(&self) -> Option<Confirmation> {
        let (confirmation, asking) = {
            let state = self.latest.read();
            (state.confirmation, state.asking)
        };
        if !asking {
            self.start();
        }
        confirmation.filter(Confirmation::is_current)
    }

    /// Forgets what the store said: something was decided here.
    pub(crate) fn doubt(&self) {
        let mut state = self.latest.write();
        state.confirmation = None;
        state.doubts += 1;
    }

    fn start(&self) {
        {
            let mut state = self.latest.write();
            if state.asking {
                return;
            }
            state.asking = true;
        }
        let asking = Asking(Arc::clone(&self.latest));
        let (store, stop) = (Arc::clone(&self.store), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = asking.ask(&*store) => {}
            }
        });
    }
}

/// The task's share. Dropped with the task, whatever ends it.
struct Asking(Arc<Latest>);

impl Asking {
    async fn ask(&self, store: &impl Cacheable) {
        let mut failing = false;
        loop {
            let doubts = self.0.read().doubts;
            let sent = Instant::now();
            // Later it would be worth nothing.
            match timeout(CONFIRMED_FOR, store.confirm()).await {
                Ok(Ok(confirmed)) => {
                    let confirmation = Confirmation::new(confirmed, sent, Instant::now());
                    let mut state = self.0.write();
                    if state.doubts == doubts {
                        state.confirmation = Some(confirmation);
                    }
                    failing = false;
                }
                Ok(Err(error)) if !failing => {
                    failing = true;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the store does not confirm its generation: retries are answered without a cache"
                    );
                }
                Err(_elapsed) if !failing => {
                    failing = true;
                    tracing::warn!("the store is slow to confirm its generation");
                }
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.write().asking = false;
    }
}

impl Latest {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        // A write is a few assignments, none of which can panic.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
