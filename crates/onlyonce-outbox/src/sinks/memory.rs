//! A sink that keeps what it gets, for tests: of applications, and of the relay itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::envelope::Envelope;
use crate::sink::{Ack, Sink, SinkError};

type Judge = dyn Fn(&Envelope) -> Result<Ack, SinkError> + Send + Sync;

/// Keeps every envelope that it took, in the order of arrival. Clones are the same sink.
///
/// ```
/// use std::time::SystemTime;
/// use onlyonce_outbox::{Envelope, Event, Sink, sinks::Memory};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let sink = Memory::new("test");
/// let event = Event::new("payments", 1);
/// sink.publish(&[Envelope::of(&event, 1, SystemTime::UNIX_EPOCH)]).await;
/// assert_eq!(sink.reached(1).await[0].event_id, event.event_id());
/// # });
/// ```
#[derive(Clone)]
pub struct Memory {
    name: String,
    judge: Arc<Mutex<Arc<Judge>>>,
    taken: Arc<watch::Sender<VecDeque<Envelope>>>,
}

impl Memory {
    /// One that takes everything.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            judge: Arc::new(Mutex::new(Arc::new(|_: &Envelope| Ok(Ack::default())))),
            taken: Arc::default(),
        }
    }

    /// From now on, takes what `judge` says it takes. What it refuses is not kept.
    pub fn judge(
        &self,
        judge: impl Fn(&Envelope) -> Result<Ack, SinkError> + Send + Sync + 'static,
    ) {
        *self.judging() = Arc::new(judge);
    }

    /// What it took so far, repetitions included.
    pub fn taken(&self) -> Vec<Envelope> {
        self.taken.borrow().iter().cloned().collect()
    }

    /// Waits until it took so many, and answers all that it took.
    pub async fn reached(&self, count: usize) -> Vec<Envelope> {
        self.until(|taken| taken.len() >= count).await
    }

    /// Waits until what it took is enough.
    pub async fn until(&self, enough: impl FnMut(&VecDeque<Envelope>) -> bool) -> Vec<Envelope> {
        let mut taken = self.taken.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = taken.wait_for(enough).await;
        self.taken()
    }

    fn judging(&self) -> MutexGuard<'_, Arc<Judge>> {
        // One value is written at once.
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("name", &self.name)
            .field("taken", &self.taken.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Sink for Memory {
    fn name(&self) -> &str {
        &self.name
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        let judge = Arc::clone(&self.judging());
        let results: Vec<_> = batch.iter().map(|envelope| judge(envelope)).collect();
        let taken = batch
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok());
        self.taken.send_modify(|all| {
            all.extend(taken.map(|(envelope, _)| envelope.clone()));
        });
        results
    }
}
