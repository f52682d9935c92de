//! When waiting for a response ends.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use onlyonce::Deadline;
use tokio::time::Instant;

use super::ForwardSettings;
use super::outgoing::{Outgoing, Upload};
use crate::alarm::Alarm;

/// The time limits of one request.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// When the first byte must have been written: guarded requests only.
    pub(crate) first_write_by: Option<Instant>,
    /// When all must be over, the response's body included.
    pub(crate) end: Option<Instant>,
    /// How long the upstream may be silent before its response: unguarded requests only.
    silence_max: Option<Duration>,
    start: Instant,
    /// The upload that postpones the silence, while there is one.
    upload: Option<Arc<Upload>>,
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
            start: Instant::now(),
            upload: None,
        }
    }

    /// Those of a request that nobody guards.
    pub(crate) fn unguarded(settings: &ForwardSettings) -> Self {
        let start = Instant::now();
        Self {
            first_write_by: None,
            end: settings.total_timeout.map(|limit| start + limit),
            silence_max: Some(settings.first_byte_timeout),
            start,
            upload: None,
        }
    }

    /// Lets an upload postpone the silence.
    pub(crate) fn watch(&mut self, body: &Outgoing) {
        self.upload = body.upload().cloned();
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

    /// Ready when one of the limits is reached.
    pub(crate) fn poll_run_out(&self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<RanOut> {
        loop {
            let silent = self.silence_max.map(|max| self.last_sign() + max);
            let Some(due) = self.end.into_iter().chain(silent).min() else {
                return Poll::Pending;
            };
            ready!(alarm.poll(due, cx));
            if self.end == Some(due) {
                return Poll::Ready(RanOut::Upstream);
            }
            // The upload may have gone on in the meantime.
            if self.silence_max.map(|max| self.last_sign() + max) == silent {
                return Poll::Ready(match self.upload().is_some_and(Upload::is_starved) {
                    true => RanOut::Client,
                    false => RanOut::Upstream,
                });
            }
        }
    }

    /// When the upstream was last given something to work on.
    fn last_sign(&self) -> Instant {
        self.upload()
            .map_or(self.start, |upload| upload.activity.last())
    }

    fn upload(&self) -> Option<&Upload> {
        self.upload.as_deref()
    }

    /// Whether nobody waits for the client any more.
    pub(crate) fn is_upload_over(&self) -> bool {
        self.upload().is_none_or(Upload::is_over)
    }

    /// Whether the client broke its upload off.
    pub(crate) fn is_upload_broken(&self) -> bool {
        self.upload().is_some_and(Upload::is_broken)
    }
}
