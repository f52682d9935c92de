//! What can go wrong in a store, sorted by what the caller can do about it.

use std::error::Error;
use std::sync::Arc;

use crate::BoxError;

/// A store did not do what it was asked. `Display` says what failed; the source says why.
///
/// Clones share the source: one failed commit can fail many calls.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", kind.text())]
pub struct StoreError {
    kind: StoreErrorKind,
    may_have_applied: bool,
    #[source]
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What sort of failure a [`StoreError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store could not be reached, or the connection was lost.
    Unavailable,
    /// The store did not answer in time.
    Timeout,
    /// The store has no room for another record, or is read-only.
    Full,
    /// The store holds something that this version cannot read, or lacks its tables.
    Incompatible,
    /// Anything else: a bug, ours or the store's.
    Other,
}

impl StoreErrorKind {
    const fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "the store cannot be reached",
            Self::Timeout => "the store did not answer in time",
            Self::Full => "the store takes no more records",
            Self::Incompatible => {
                "the store's schema or content is not of a version this program can use"
            }
            Self::Other => "the store failed",
        }
    }
}

impl StoreError {
    /// An error after which nobody can tell whether a write happened.
    pub fn new(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            may_have_applied: true,
            source: Some(source.into().into()),
        }
    }

    /// An error of which it is certain that nothing was written: refused, never sent, rolled back.
    pub fn not_applied(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            may_have_applied: false,
            source: Some(source.into().into()),
        }
    }

    /// The same error, of a call that an earlier try may have applied.
    #[must_use]
    pub fn in_doubt(self) -> Self {
        Self {
            may_have_applied: true,
            ..self
        }
    }

    /// What sort of failure it is.
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the same call may succeed a little later.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            StoreErrorKind::Unavailable | StoreErrorKind::Timeout
        )
    }

    /// Whether the write may have happened all the same. Repeat the call with the same token to find out.
    pub const fn may_have_applied(&self) -> bool {
        self.may_have_applied
    }
}
