//! A store that counts what it is asked and can be held up, and requests to ask it with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onlyonce::cached::Cached;
use onlyonce::clock::Clock;
use onlyonce::store::operator::{Detail, Filter, Resolution, Resolved, Summary};
use onlyonce::store::{
    Cacheable, Claim, Claimed, Completed, Confirmed, MemoryStore, OnUnknown, Operator, Present,
    Settled, Settlement, Store, StoreError, StoreErrorKind,
};
use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, Timestamp, Token};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

pub(crate) const RETENTION: Duration = Duration::from_secs(3600);

/// The store's clock: the paused one, from some moment on.
#[derive(Debug)]
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_000_000_000_000_000).plus(self.0.elapsed())
    }
}

/// A store that other processes use as well. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Asked(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: MemoryStore,
    /// Claims and finds.
    reads: AtomicUsize,
    confirms: AtomicUsize,
    away: AtomicBool,
    /// Answers of claims, finds and settlements go through this.
    answers: Semaphore,
    /// So do confirmations.
    confirmations: Semaphore,
}

impl Asked {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            store: MemoryStore::new(1000, 1 << 20, Paused(Instant::now())),
            reads: AtomicUsize::new(0),
            confirms: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
            confirmations: Semaphore::new(Semaphore::MAX_PERMITS),
        }))
    }

    /// Another process's way to the same records.
    pub(crate) fn elsewhere(&self) -> &MemoryStore {
        &self.0.store
    }

    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub(crate) fn reads(&self) -> usize {
        self.0.reads.load(Ordering::SeqCst)
    }

    pub(crate) fn confirms(&self) -> usize {
        self.0.confirms.load(Ordering::SeqCst)
    }

    pub(crate) fn go_away(&self) {
        self.0.away.store(true, Ordering::SeqCst);
    }

    pub(crate) fn hold_answers(&self) {
        self.0.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_answers_through(&self) {
        self.0.answers.add_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn hold_confirmations(&self) {
        self.0.confirmations.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_confirmations_through(&self) {
        self.0.confirmations.add_permits(Semaphore::MAX_PERMITS);
    }

    fn here(&self) -> Result<(), StoreError> {
        if self.0.away.load(Ordering::SeqCst) {
            return Err(StoreError::not_applied(StoreErrorKind::Unavailable, "away"));
        }
        Ok(())
    }

    /// The answer is found at once and may be long on its way.
    async fn read<T>(&self, answer: impl Future<Output = T>) -> Result<T, StoreError> {
        self.here()?;
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let answer = answer.await;
        let _through = self.0.answers.acquire().await.expect("never closed");
        Ok(answer)
    }
}

impl Store for Asked {
    fn recall(&self, _: &RecordId) -> Option<Completed> {
        None
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.read(self.0.store.claim(claim)).await?
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        self.here()?;
        let settled = self.0.store.settle(claim, epoch, settlement).await;
        let _through = self.0.answers.acquire().await.expect("never closed");
        settled
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        self.read(self.0.store.find(id)).await?
    }
}

impl Cacheable for Asked {
    async fn confirm(&self) -> Result<Confirmed, StoreError> {
        self.here()?;
        self.0.confirms.fetch_add(1, Ordering::SeqCst);
        let confirmed = self.0.store.confirm().await;
        let _through = self.0.confirmations.acquire().await.expect("never closed");
        confirmed
    }
}

impl Operator for Asked {
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        self.0.store.list(filter).await
    }

    async fn show(&self, id: &RecordId) -> Result<Option<Detail>, StoreError> {
        self.0.store.show(id).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        resolution: &Resolution,
        force: bool,
    ) -> Result<Resolved, StoreError> {
        self.0.store.resolve(id, resolution, force).await
    }
}

pub(crate) fn claim(number: u8) -> Claim {
    Claim {
        id: RecordId::from_bytes([number; 16]),
        token: Token::random(),
        fingerprint: Fingerprint::from_bytes([1; 32]),
        credential: CredentialHash::from_bytes([2; 32]),
        lease: Duration::from_secs(65),
        retention: RETENTION,
        on_unknown: OnUnknown::Hold,
        asked_at: Instant::now(),
    }
}

/// A wrapped store that has been confirmed.
pub(crate) async fn confirmed(asked: &Asked) -> Cached<Asked> {
    started(Cached::new(asked.clone())).await
}

/// Starts its task, and waits for the first answer.
pub(crate) async fn started(cached: Cached<Asked>) -> Cached<Asked> {
    let before = cached.store().confirms();
    assert_eq!(cached.find(&claim(255).id).await.unwrap(), None);
    while cached.store().confirms() == before {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(1)).await;
    cached
}

/// Executes a request: claims, and completes with this answer.
pub(crate) async fn execute(store: &impl Store, claim: &Claim, answer: &'static str) {
    let Claimed::Acquired(epoch) = store.claim(claim).await.unwrap() else {
        panic!("something is in the way");
    };
    let answer = Settlement::Completed(answer.into());
    let settled = store.settle(claim, epoch, &answer).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}

/// The answer that a retry gets.
pub(crate) async fn replayed(store: &impl Store, number: u8) -> Option<Bytes> {
    match store.claim(&claim(number)).await.unwrap() {
        Claimed::Present(Present::Completed(completed)) => completed.response,
        other => panic!("not completed: {other:?}"),
    }
}

/// As an operator does elsewhere.
pub(crate) async fn forget(store: &impl Operator, number: u8) {
    let id = claim(number).id;
    let forgotten = store.resolve(&id, &Resolution::Forget, false).await;
    assert!(matches!(forgotten.unwrap(), Resolved::Done(_)));
}
