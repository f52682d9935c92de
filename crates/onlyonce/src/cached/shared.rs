//! A cache that several processes share, asked when this process's own memory has no entry.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::Entry;
use crate::record::RecordId;
use crate::store::Generation;

/// Entries that other processes find too, in a server of their own: Redis, say.
///
/// It is trusted with nothing but time. Whatever it does not know, or cannot prove that somebody who knows
/// the generation put there *under this id*, is a miss: garbage, forgeries, entries of another generation or
/// of another store. Key names and authentication are to be derived from the generation's secret bytes.
///
/// The caller checks expiry and generation when `get` has returned, however late that is.
pub trait SharedCache: Send + Sync + 'static {
    /// Looks for an entry that was put under this generation and id.
    ///
    /// `None` for every failure and for an answer that takes longer than a few milliseconds: the store is
    /// asked instead. May be dropped at any time.
    fn get(
        &self,
        generation: &Generation,
        id: &RecordId,
    ) -> impl Future<Output = Option<Entry>> + Send;

    /// Keeps an entry for `remaining`, if it can: it never waits, and what does not fit into its queue is
    /// dropped. Called inside a Tokio runtime.
    ///
    /// `remaining` is for housekeeping. An entry that stays longer is not used past its
    /// [`expires_at`](Entry::expires_at).
    fn put(&self, generation: &Generation, id: &RecordId, entry: &Entry, remaining: Duration);
}

/// A [`SharedCache`] whose type is forgotten, at one box for each question.
pub(super) trait ErasedSharedCache: Send + Sync {
    fn get<'a>(
        &'a self,
        generation: &'a Generation,
        id: &'a RecordId,
    ) -> Pin<Box<dyn Future<Output = Option<Entry>> + Send + 'a>>;
    fn put(&self, generation: &Generation, id: &RecordId, entry: &Entry, remaining: Duration);
}

impl<T: SharedCache> ErasedSharedCache for T {
    fn get<'a>(
        &'a self,
        generation: &'a Generation,
        id: &'a RecordId,
    ) -> Pin<Box<dyn Future<Output = Option<Entry>> + Send + 'a>> {
        Box::pin(SharedCache::get(self, generation, id))
    }

    fn put(&self, generation: &Generation, id: &RecordId, entry: &Entry, remaining: Duration) {
        SharedCache::put(self, generation, id, entry, remaining);
    }
}
