//! Completed records, kept nearer than the store: for retries that are answered without asking it.
//!
//! [`Cached`] wraps a store. It keeps completed records in this process's memory and, where it has one, in a
//! [`SharedCache`] that other processes use as well. Nothing of that is the authority. What is kept can be
//! lost, flushed, damaged or out of date, and that changes how fast an answer comes, never which.
//!
//! # Why an old answer does no harm
//! A completed record changes only by an operator's decision, which gives the store another
//! [`Generation`] in the same transaction. What is kept carries the generation that
//! the store had confirmed *before* it was read or written there, and is used only while the store has
//! confirmed that same one within the last [`CONFIRMED_FOR`], counted from before the question was sent. So
//! from two seconds after a decision on nobody uses anything from before it; and a key that it frees takes
//! claims only after three ([`FREED_REST`](crate::store::operator::FREED_REST)). Whoever asks once a new
//! execution may have begun cannot be shown the old answer. (Every interleaving of a small system is checked in
//! `crates/onlyonce-test/tests/model_cached.rs`.)
//!
//! Retention ends by the store's clock. What is kept is used only as long as the store's clock, at the latest
//! that it can show by now, has not come to the end, at the earliest that it can be.
//!
//! # Hazards
//! - While the store does not answer, retries are answered from here for two seconds at the most, then no more.
//! - A machine that was suspended goes on with the time of before, by its monotonic clock. It may use for two
//!   seconds what was confirmed before it slept.
//! - One decision, about any record, makes all of it worthless. Operators decide seldom.
//!
//! ```
//! use onlyonce::IdempotencyLayer;
//! use onlyonce::cached::Cached;
//! use onlyonce::store::MemoryStore; // stands for one that has to be asked over a network
//!
//! let store = Cached::new(MemoryStore::default()).with_memory_max(16 << 20);
//! let layer = IdempotencyLayer::new(store);
//! ```

use std::fmt;
use std::sync::Arc;

use crate::record::{Epoch, RecordId};
use crate::store::operator::{Detail, Filter, Operator, Resolution, Resolved, Summary, Sweep};
use crate::store::{
    Cacheable, Claim, Claimed, Completed, Generation, Present, Settled, Settlement, Store,
    StoreError,
};

mod confirmation;
mod confirmations;
mod entry;
mod memory;
mod shared;

pub use self::confirmation::CONFIRMED_FOR;
use self::confirmation::Confirmation;
use self::confirmations::Confirmations;
pub use self::entry::Entry;
use self::memory::Memory;
use self::shared::ErasedSharedCache;
pub use self::shared::SharedCache;

/// What the process's memory may hold, where nothing else is said.
const MEMORY_MAX: usize = 64 << 20;
/// The longest response that is kept, where nothing else is said.
const ENTRY_MAX: usize = 64 << 10;

/// A store whose completed records are kept nearer. Clones share what is kept; the
/// [module's documentation](self) says why it is safe.
///
/// It starts a task that has the store confirm its generation twice a second, on the runtime of its first call,
/// and that ends with the last clone.
pub struct Cached<S> {
    confirmations: Arc<Confirmations<S>>,
    memory: Arc<Memory>,
    shared: Option<Arc<dyn ErasedSharedCache>>,
    entry_max: usize,
}

impl<S: Cacheable> Cached<S> {
    /// Keeps up to 64 MiB in this process's memory, of responses up to 64 KiB each.
    pub fn new(store: S) -> Self {
        Self {
            confirmations: Arc::new(Confirmations::new(store)),
            memory: Arc::new(Memory::new(MEMORY_MAX)),
            shared: None,
            entry_max: ENTRY_MAX,
        }
    }

    /// Keeps up to so many bytes in this process's memory, with all that it takes to keep them; zero for none.
    #[must_use]
    pub fn with_memory_max(self, bytes: usize) -> Self {
        Self {
            memory: Arc::new(Memory::new(bytes)),
            ..self
        }
    }

    /// Keeps only records whose encoded response has up to so many bytes, here and in the shared cache.
    #[must_use]
    pub fn with_entry_max(self, bytes: usize) -> Self {
        Self {
            entry_max: bytes,
            ..self
        }
    }

    /// Asks `cache` as well, after this process's memory and before the store.
    #[must_use]
    pub fn with_shared(self, cache: impl SharedCache) -> Self {
        Self {
            shared: Some(Arc::new(cache)),
            ..self
        }
    }

    /// The store itself.
    pub fn store(&self) -> &S {
        self.confirmations.store()
    }

    /// What is kept of a record and may be used now.
    async fn kept(&self, confirmation: &Confirmation, id: &RecordId) -> Option<Entry> {
        if let Some(entry) = self.memory.get(confirmation, id) {
            return Some(entry);
        }
        let generation = confirmation.generation();
        let entry = self.shared.as_ref()?.get(generation, id).await?;
        // It may have taken any time to come: long enough for a decision.
        let now = self.confirmations.current()?;
        if now.generation() != generation || now.remaining(entry.expires_at).is_zero() {
            return None;
        }
        self.keep_here(generation, id, &entry);
        Some(entry)
    }

    /// Keeps a record that was completed after `confirmation` was had.
    fn keep(&self, confirmation: &Confirmation, id: &RecordId, entry: &Entry) {
        if entry.response.len() > self.entry_max {
            return;
        }
        let remaining = confirmation.remaining(entry.expires_at);
        if remaining.is_zero() {
            return;
        }
        self.keep_here(confirmation.generation(), id, entry);
        if let Some(shared) = &self.shared {
            shared.put(confirmation.generation(), id, entry, remaining);
        }
    }

    fn keep_here(&self, generation: &Generation, id: &RecordId, entry: &Entry) {
        if entry.response.len() <= self.entry_max {
            self.memory.put(generation, id, entry);
        }
    }

    fn keep_present(&self, confirmation: &Confirmation, id: &RecordId, present: &Present) {
        if let Present::Completed(completed) = present
            && let Some(entry) = Entry::of(completed)
        {
            self.keep(confirmation, id, &entry);
        }
    }
}

impl<S> Clone for Cached<S> {
    fn clone(&self) -> Self {
        Self {
            confirmations: Arc::clone(&self.confirmations),
            memory: Arc::clone(&self.memory),
            shared: self.shared.clone(),
            entry_max: self.entry_max,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Cached<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("store", self.confirmations.store())
            .field("memory", &self.memory)
            .field("shared", &self.shared.is_some())
            .field("entry_max", &self.entry_max)
            .finish()
    }
}

/// Each confirmation is had before the store is asked: were it had after, what was read before a decision could
/// be kept as if it had been read after.
impl<S: Cacheable> Store for Cached<S> {
    fn recall(&self, id: &RecordId) -> Option<Completed> {
        let confirmation = self.confirmations.current()?;
        self.memory.get(&confirmation, id).map(Completed::from)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let Some(confirmation) = self.confirmations.current() else {
            return self.store().claim(claim).await;
        };
        if let Some(entry) = self.kept(&confirmation, &claim.id).await {
            return Ok(Claimed::Present(Present::Completed(entry.into())));
        }
        let claimed = self.store().claim(claim).await?;
        if let Claimed::Present(present) = &claimed {
            self.keep_present(&confirmation, &claim.id, present);
        }
        Ok(claimed)
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        let Settlement::Completed(response) = settlement else {
            return self.store().settle(claim, epoch, settlement).await;
        };
        let confirmation = self.confirmations.current();
        let settled = self.store().settle(claim, epoch, settlement).await?;
        if let (Settled::Done, Some(confirmation)) = (settled, confirmation) {
            let entry = Entry {
                fingerprint: claim.fingerprint,
                credential: claim.credential,
                expires_at: confirmation.expiry_of(claim),
                response: response.clone(),
            };
            self.keep(&confirmation, &claim.id, &entry);
        }
        Ok(settled)
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        let Some(confirmation) = self.confirmations.current() else {
            return self.store().find(id).await;
        };
        if let Some(entry) = self.kept(&confirmation, id).await {
            return Ok(Some(Present::Completed(entry.into())));
        }
        let present = self.store().find(id).await?;
        if let Some(present) = &present {
            self.keep_present(&confirmation, id, present);
        }
        Ok(present)
    }
}

impl<S: Cacheable + Operator> Operator for Cached<S> {
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        self.store().list(filter).await
    }

    async fn show(&self, id: &RecordId) -> Result<Option<Detail>, StoreError> {
        self.store().show(id).await
    }

    /// Here the old answer is not used any more once this has returned; elsewhere it is for two seconds.
    async fn resolve(
        &self,
        id: &RecordId,
        resolution: &Resolution,
        force: bool,
    ) -> Result<Resolved, StoreError> {
        let resolved = self.store().resolve(id, resolution, force).await;
        // After an error too: it may have been decided.
        self.confirmations.doubt();
        resolved
    }
}

impl<S: Cacheable + Sweep> Sweep for Cached<S> {
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        self.store().sweep(limit).await
    }
}
