//! What the inner service knows about execution, and until when it may begin.
//!
//! A status code is what the upstream *said*; evidence is what the forwarder *saw*. Only the forwarder
//! can know that a request was never sent, so it says so in a response extension, and the layer believes
//! that rather than the status.
//!
//! ```
//! use onlyonce::Evidence;
//!
//! let mut response = http::Response::new("connection refused");
//! *response.status_mut() = http::StatusCode::BAD_GATEWAY;
//! response.extensions_mut().insert(Evidence::NotSent); // the key is released: a retry executes
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// What is known of a request's execution. Put it into a response's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Not one byte of the request left this process.
    NotSent,
    /// The upstream said that it did not execute.
    Refused,
    /// The request may have been executed: nobody can tell.
    Unknown,
}

/// Says that the inner service has settled the request's record itself, with this very response, in the store that
/// the layer was given. Put it into the response's extensions.
///
/// The layer then passes the response on as it is: it captures nothing and settles nothing. Only for a service that
/// writes the record in the transaction of its own work (`onlyonce-axum`); said of a record that was not written it
/// leaves the key in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded;

/// The time limits of a guarded request, found in its extensions by the inner service.
///
/// Beside it lies the request's [`RecordId`](crate::RecordId), for errors and logs that name the record.
///
/// Both count from before the claim was sent. A process can be frozen anywhere; checking
/// [`may_start`](Self::may_start) right before the first byte keeps a request from being sent after its
/// claim was given up by others.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline that counts from now.
    pub fn after(limit: Duration) -> Self {
        Self::from(Instant::now(), limit)
    }

    pub(crate) const fn from(start: Instant, limit: Duration) -> Self {
        Self { start, limit }
    }

    /// When everything must be over: past it the outcome is unknown.
    pub fn end(&self) -> Instant {
        self.start + self.limit
    }

    /// When sending must have begun: half the limit.
    pub fn start_by(&self) -> Instant {
        self.start + self.limit / 2
    }

    /// Whether a first byte may still be sent.
    pub fn may_start(&self) -> bool {
        Instant::now() < self.start_by()
    }
}
