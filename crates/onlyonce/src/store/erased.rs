//! A store whose type is forgotten: what the layer and the proxy hold.
//!
//! The trait's methods return unnamed futures, which is what implementers want; callers that choose a
//! store at run time want one type. [`SharedStore`] is that type, made once, at one box per call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Claim, Claimed, Completed, Present, Settled, Settlement, Store, StoreError};
use crate::record::{Epoch, RecordId};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

trait ErasedStore: Send + Sync {
    fn recall(&self, id: &RecordId) -> Option<Completed>;
    fn claim<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Claimed>;
    fn settle<'a>(
        &'a self,
        claim: &'a Claim,
        epoch: Epoch,
        settlement: &'a Settlement,
    ) -> BoxFuture<'a, Settled>;
    fn find<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Option<Present>>;
}

impl<T: Store> ErasedStore for T {
    fn recall(&self, id: &RecordId) -> Option<Completed> {
        Store::recall(self, id)
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Claimed> {
        Box::pin(Store::claim(self, claim))
    }

    fn settle<'a>(
        &'a self,
        claim: &'a Claim,
        epoch: Epoch,
        settlement: &'a Settlement,
    ) -> BoxFuture<'a, Settled> {
        Box::pin(Store::settle(self, claim, epoch, settlement))
    }

    fn find<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Option<Present>> {
        Box::pin(Store::find(self, id))
    }
}

/// Any [`Store`], shared and with its type erased. Cloning it shares the store.
#[derive(Clone)]
pub struct SharedStore(Arc<dyn ErasedStore>);

impl SharedStore {
    /// Erases the type of a store.
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStore").finish_non_exhaustive()
    }
}

impl Store for SharedStore {
    fn recall(&self, id: &RecordId) -> Option<Completed> {
        self.0.recall(id)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.0.claim(claim).await
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        self.0.settle(claim, epoch, settlement).await
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        self.0.find(id).await
    }
}

/// A store behind an `Arc` is that store.
impl<T: Store> Store for Arc<T> {
    fn recall(&self, id: &RecordId) -> Option<Completed> {
        T::recall(self, id)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        T::claim(self, claim).await
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        T::settle(self, claim, epoch, settlement).await
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        T::find(self, id).await
    }
}
