//! When waiting for a response ends.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::Deadline;
use tokio::time::{Instant, sleep_until};

use super::ForwardSettings;
use super::outgoing::Upload;

/// The time limits of one request.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// When the first byte must have been written: guarded requests only.
    pub(crate) first_write_by: Option<Instant>,
    /// When all must be over, the response's body included.
    pub(crate) end: Option<Instant>,
    /// How long the upstream may be silent before its response: unguarded requests only.
    silence_max: Option<Duration>,
    /// The upload that postpones the silence.
    pub(crate) upload: Arc<Upload>,
}

/// Who was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RanOut {
    Upstream,
    Client,
}

impl Limits {
    /// Those of a guarded request.
    pub(crate) fn guarded(deadline: Deadline) -> Self {
        Self {
            first_write_by: Some(deadline.start_by()),
            end: Some(deadline.end()),
            silence_max: None,
            upload: Arc::new(Upload::new()),
        }
    }

    /// Those of a request that nobody guards.
    pub(crate) fn unguarded(settings: &ForwardSettings) -> Self {
        Self {
            first_write_by: None,
            end: settings.total_timeout.map(|limit| Instant::now() + limit),
            silence_max: Some(settings.first_byte_timeout),
            upload: Arc::new(Upload::new()),
        }
    }

    /// Whether the layer guards the request.
    pub(crate) const fn is_guarded(&self) -> bool {
        self.first_write_by.is_some()
    }

    /// Whether a first byte may be sent now.
    pub(crate) fn may_start(&self) -> bool {
        self.first_write_by
            .is_none_or(|limit| Instant::now() < limit)
    }

    /// Returns when one of the limits is reached.
    pub(crate) async fn run_out(&self) -> RanOut {
        let end = async {
            match self.end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let silence = async {
            match self.silence_max {
                Some(limit) => self.upload.activity.quiet_for(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = end => RanOut::Upstream,
            () = silence => match self.upload.is_starved() {
                true => RanOut::Client,
                false => RanOut::Upstream,
            },
        }
    }
}
