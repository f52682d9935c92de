//! `[limits]`: bounds over all requests of the process.

use std::time::Duration;

use super::listen::in_memory;
use super::section::Section;
use super::value::ByteSize;

/// What bounds the process as a whole; the bounds of one request are in `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// All response bodies that are captured and not yet settled; one that does not fit is delivered in
    /// full and recorded without its body.
    pub captured_max: ByteSize,
    /// All request bodies that are being read or forwarded; 503 above.
    pub uploaded_max: ByteSize,
    /// All recorded bodies that are being sent again, small ones aside; 503 above.
    pub replayed_max: ByteSize,
    /// Requests that are claimed and not yet settled; 503 above.
    pub unsettled_max: u32,
    /// Duplicates that wait for their twin; 409 at once above.
    pub waiting_max: u32,
    /// How long the end of a response is held back for its settlement.
    pub settle_hold: Duration,
    /// How long a claim is tried before the store counts as unavailable.
    pub claim_patience: Duration,
}

impl Limits {
    /// The limits as the layer takes them.
    pub fn guard(&self) -> onlyonce::Limits {
        onlyonce::Limits {
            captured_bytes_max: self.captured_max.in_memory(),
            uploaded_bytes_max: self.uploaded_max.in_memory(),
            replayed_bytes_max: self.replayed_max.in_memory(),
            unsettled_max: in_memory(self.unsettled_max),
            waiting_max: in_memory(self.waiting_max),
            settle_hold: self.settle_hold,
            claim_patience: self.claim_patience,
        }
    }

    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            captured_max: section.above_zero("captured-max", ByteSize(64 << 20)),
            uploaded_max: section.above_zero("uploaded-max", ByteSize(256 << 20)),
            replayed_max: section.above_zero("replayed-max", ByteSize(256 << 20)),
            unsettled_max: section.above_zero("unsettled-max", 4096),
            waiting_max: section.get("waiting-max", 1024),
            settle_hold: section.get("settle-hold", Duration::from_secs(2)),
            claim_patience: section.above_zero("claim-patience", Duration::from_secs(5)),
        }
    }
}
