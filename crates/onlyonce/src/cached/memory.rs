//! What one process keeps in its own memory, bounded in bytes.

use std::fmt;
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};

use super::Entry;
use super::confirmation::Confirmation;
use crate::record::RecordId;
use crate::store::Generation;

/// What an entry takes beside its response: itself, its place in two tables and the traces of those that had to
/// go, with the room by which tables grow ahead, and what the allocator adds. Found by filling it: limited to
/// 64 MiB, the process grew by 48 with responses of 40 bytes, by 60 to 65 with those of a thousand and more.
const OVERHEAD: u64 = 384;
/// An average, from which the number of shards follows and how many traces are kept.
const ENTRY_BYTES: usize = 1 << 10;

/// Entries of this process; none where the limit is zero.
pub(super) struct Memory(Option<Cache<RecordId, Arc<Kept>, Weight>>);

/// An entry, and the generation that was confirmed before it was read.
#[derive(Debug)]
struct Kept {
    generation: Generation,
    entry: Entry,
}

#[derive(Debug, Clone, Copy)]
struct Weight;

impl Weighter<RecordId, Arc<Kept>> for Weight {
    fn weight(&self, _: &RecordId, kept: &Arc<Kept>) -> u64 {
        OVERHEAD + u64::try_from(kept.entry.response.len()).unwrap_or(u64::MAX - OVERHEAD)
    }
}

impl Memory {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self((bytes_max > 0).then(|| {
            Cache::with(
                bytes_max / ENTRY_BYTES,
                u64::try_from(bytes_max).unwrap_or(u64::MAX),
                Weight,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            )
        }))
    }

    /// An entry of the generation that is confirmed now, within its retention.
    pub(super) fn get(&self, confirmation: &Confirmation, id: &RecordId) -> Option<Entry> {
        let kept = self.0.as_ref()?.get(id)?;
        let usable = kept.generation == *confirmation.generation()
            && !confirmation.remaining(kept.entry.expires_at).is_zero();
        usable.then(|| kept.entry.clone())
    }

    pub(super) fn put(&self, generation: &Generation, id: &RecordId, entry: &Entry) {
        if let Some(cache) = &self.0 {
            let kept = Kept {
                generation: *generation,
                entry: entry.clone(),
            };
            cache.insert(*id, Arc::new(kept));
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("entries", &self.0.as_ref().map(Cache::len))
            .field("bytes", &self.0.as_ref().map(Cache::weight))
            .finish()
    }
}
