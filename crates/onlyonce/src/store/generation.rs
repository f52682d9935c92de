//! The generation of a store: what tells that something was read before an operator's decision.
//!
//! A completed record never changes by itself, so a copy of it may be kept elsewhere, until an operator
//! resolves or forgets one. Each such decision gives the whole store another *generation*, in the same
//! transaction; a copy carries the generation in which it was read and is worth nothing in any other. That
//! is coarser than a version for each record: a decision, which is rare, costs every copy. But a copy is
//! checked against one small value that is the same for all of them, and nothing has to be told to whoever
//! keeps copies.
//!
//! Not a counter: a failover can lose a decision, and the next one would arrive at the same number with
//! another meaning.
//!
//! Hazard: a generation is a secret of those who can read the store. Whoever knows it can forge what a
//! [`SharedCache`](crate::cached::SharedCache) keeps.
//!
//! ```
//! use onlyonce::store::{Cacheable, MemoryStore};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = MemoryStore::default();
//! let before = store.confirm().await?;
//! // … nobody resolves or forgets anything …
//! assert_eq!(store.confirm().await?.generation, before.generation);
//! # Ok::<(), onlyonce::store::StoreError>(()) }).unwrap();
//! ```

use std::fmt;
use std::future::Future;

use super::{Store, StoreError};
use crate::record::Timestamp;

/// A stretch of a store's life in which no operator decided anything: 32 random bytes.
///
/// Compared in constant time, and never printed.
#[derive(Clone, Copy)]
pub struct Generation([u8; 32]);

impl Generation {
    /// A new one, from the operating system's random source.
    ///
    /// # Panics
    /// Where the operating system has no random source: a decision must not be made without one.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system's random source answers");
        Self(bytes)
    }

    /// A generation from its 32 bytes, as a store keeps it.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, as a store keeps them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Generation {
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for Generation {}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Generation(..)")
    }
}

/// What a store says when it is asked: its generation, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// The generation, as of the last decision that was committed before the answer.
    pub generation: Generation,
    /// The store's clock, at a moment between question and answer.
    pub now: Timestamp,
}

/// A store whose completed records may be kept elsewhere for as long as it confirms its generation.
pub trait Cacheable: Store {
    /// Asks for generation and time: one cheap read, which writes nothing.
    ///
    /// The answer must be as new as any claim's: of the primary, not of a standby that lags behind. A
    /// decision that was acknowledged before the question was asked must show.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn confirm(&self) -> impl Future<Output = Result<Confirmed, StoreError>> + Send;
}
