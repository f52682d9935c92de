//! `[cache]`: completed records that are kept nearer than the store.

use onlyonce::cached::Cached;
use onlyonce::store::Cacheable;

use super::section::Section;
use super::value::ByteSize;

/// What is kept for retries. None of it is the authority: it changes how fast an answer comes, never which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// What this process's memory may hold; nothing is kept where it is zero.
    pub memory_max: ByteSize,
    /// The longest recorded response that is kept.
    pub entry_max: ByteSize,
}

impl Cache {
    /// The store with what is kept of it; `None` where nothing is.
    pub(crate) fn around<S: Cacheable>(&self, store: S) -> Option<Cached<S>> {
        (self.memory_max.0 > 0).then(|| {
            Cached::new(store)
                .with_memory_max(self.memory_max.in_memory())
                .with_entry_max(self.entry_max.in_memory())
        })
    }

    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            memory_max: section.get("memory-max", ByteSize(64 << 20)),
            entry_max: section.above_zero("entry-max", ByteSize(64 << 10)),
        }
    }
}
