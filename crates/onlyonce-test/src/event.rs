//! Events that a test waits for, in place of sleeping: [`Gate`], [`Counter`] and [`within`].
//!
//! A test that sleeps is either slow or wrong on a busy machine. Everything in this crate that happens
//! by itself can be awaited; each wait is bounded by [`PATIENCE`] and says what it waited for when it
//! fails. The bound is never what a test measures.
//!
//! ```
//! use onlyonce_test::event::{Gate, within};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let gate = Gate::default();
//! let waiter = tokio::spawn({ let gate = gate.clone(); async move { gate.pass().await } });
//! gate.reached(1).await; // somebody stands before it
//! gate.open();
//! within("the waiter to pass the gate", waiter).await.unwrap();
//! # });
//! ```

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

/// How long anything is awaited before a test fails: far longer than a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls a future so many times, each time when it asks for it, and then drops it: a client that leaves.
pub async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = Box::pin(future);
    let mut left = times;
    poll_fn(move |context| match left {
        0 => Poll::Ready(None),
        _ => {
            left -= 1;
            match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                // The last poll is followed by the drop at once, while whoever was asked is at work.
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        }
    })
    .await
}

/// Awaits `future`, but not for longer than [`PATIENCE`].
///
/// # Panics
/// When the time is over, with `what` in the text: "waited 30 s in vain for …".
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}

/// A number that only grows, and that can be awaited. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<watch::Sender<usize>>);

impl Counter {
    /// Adds one; answers the new number.
    pub fn add(&self) -> usize {
        let mut now = 0;
        self.0.send_modify(|count| {
            *count += 1;
            now = *count;
        });
        now
    }

    /// The number now.
    pub fn get(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until the number is `at_least`.
    ///
    /// # Panics
    /// After [`PATIENCE`], with `what` was counted.
    pub async fn reach(&self, at_least: usize, what: &str) {
        let mut count = self.0.subscribe();
        let arrived = count.wait_for(|count| *count >= at_least);
        match tokio::time::timeout(PATIENCE, arrived).await {
            // The sender lives as long as `self`, so the wait cannot fail otherwise.
            Ok(_) => {}
            Err(_) => panic!(
                "waited {} s in vain for {at_least} {what}; there are {}",
                PATIENCE.as_secs(),
                self.get()
            ),
        }
    }
}

/// Holds those who [`pass`](Self::pass) until the test [`open`](Self::open)s it, once and for all.
/// Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    arrivals: Counter,
}

impl Gate {
    /// Waits until the gate is open. Not bounded in time: a request held at a gate ends when the test does.
    pub async fn pass(&self) {
        self.arrivals.add();
        let mut open = self.open.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = open.wait_for(|open| *open).await;
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `count` have come to the gate.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub async fn reached(&self, count: usize) {
        self.arrivals.reach(count, "arrivals at a gate").await;
    }
}
