//! Completed records, kept nearer than the store: for retries that are answered without asking it.
//!
//! Nothing here is the authority. What is kept can be lost, flushed, damaged or out of date, and that
//! changes how fast an answer comes, never which: an [`Entry`] is used only while the store has confirmed,
//! within the last moments, that it still has the [`Generation`](crate::store::Generation) in which the
//! entry was read.

mod entry;
mod shared;

pub use self::entry::Entry;
pub use self::shared::SharedCache;
