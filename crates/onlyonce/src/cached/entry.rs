//! What is kept of a record: all that answers a retry.

use bytes::Bytes;

use crate::record::{CredentialHash, Fingerprint, Timestamp};
use crate::store::Completed;

/// A completed record that has a response.
///
/// It holds what decides who may see the response, too: whoever finds an entry asks the same questions as
/// whoever finds the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// Who asked.
    pub credential: CredentialHash,
    /// When the record's retention ends, by the store's clock; never later than the record says.
    pub expires_at: Timestamp,
    /// The response as [`crate::codec`] encoded it. It should own its bytes and no more: it is kept for
    /// long, and a slice keeps the whole of what it was cut from.
    pub response: Bytes,
}

impl Entry {
    /// The entry of a record; `None` where its response is missing.
    pub fn of(completed: &Completed) -> Option<Self> {
        Some(Self {
            fingerprint: completed.fingerprint,
            credential: completed.credential,
            expires_at: completed.expires_at,
            response: completed.response.clone()?,
        })
    }
}

impl From<Entry> for Completed {
    fn from(entry: Entry) -> Self {
        Self {
            fingerprint: entry.fingerprint,
            credential: entry.credential,
            expires_at: entry.expires_at,
            response: Some(entry.response),
        }
    }
}
