//! What became of a guarded request, in the word that its log line carries.

use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::record::RecordId;

/// The outcome of a guarded request. The words are an interface: log filters and alerts use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Executed now, and recorded.
    Fresh,
    /// Answered from the record.
    Replayed,
    /// The upstream did not execute; the key is free again.
    Released,
    /// A twin is in flight.
    InProgress,
    /// The key was used for another request.
    Reused,
    /// Nobody knows whether the upstream executed.
    Unknown,
    /// Recorded under another credential.
    Withheld,
    /// Recorded, without a body that could be replayed.
    ResponseUnavailable,
    /// No key where one is required.
    KeyMissing,
    /// A key that is none.
    KeyInvalid,
    /// The request's body was too large, broke off or came too slowly.
    UploadFailed,
    /// The store took no claim; nothing was forwarded.
    StoreUnavailable,
    /// The store took no claim; forwarded unguarded, as the policy says.
    Unguarded,
    /// The record went to a later epoch while this request was at work.
    Stale,
}

impl Outcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Replayed => "replayed",
            Self::Released => "released",
            Self::InProgress => "in-progress",
            Self::Reused => "reused",
            Self::Unknown => "unknown",
            Self::Withheld => "withheld",
            Self::ResponseUnavailable => "response-unavailable",
            Self::KeyMissing => "key-missing",
            Self::KeyInvalid => "key-invalid",
            Self::UploadFailed => "upload-failed",
            Self::StoreUnavailable => "store-unavailable",
            Self::Unguarded => "unguarded",
            Self::Stale => "stale",
        }
    }
}

/// A guarded request's one log line, before its outcome is known.
#[derive(Debug, Clone)]
pub(crate) struct LogLine {
    pub(crate) record: Option<RecordId>,
    pub(crate) method: Method,
    pub(crate) started: Instant,
}

impl LogLine {
    /// Writes it.
    pub(crate) fn write(&self, outcome: Outcome, status: StatusCode) {
        tracing::info!(
            target: "onlyonce::request",
            outcome = outcome.as_str(),
            record = self.record.map(tracing::field::display),
            method = self.method.as_str(),
            status = status.as_u16(),
            duration_ms = self.started.elapsed().as_secs_f64() * 1e3,
        );
    }
}
