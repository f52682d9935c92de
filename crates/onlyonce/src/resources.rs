//! What all requests of a layer share: the store, the bounds, and the tasks that drain waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::abort::Abort;
use crate::budget::Budget;
use crate::in_flight::InFlight;
use crate::policy::Policy;
use crate::store::SharedStore;

/// Time for tasks to settle as unknown once drain has given them up.
const ABORT_GRACE: Duration = Duration::from_secs(3);

/// Bounds over all requests of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all response bodies that are captured and not yet settled. A body that does not fit is
    /// delivered in full and recorded without it. Default: 64 MiB.
    pub captured_bytes_max: usize,
    /// Bytes of all request bodies that are being read or forwarded; 503 above. Default: 256 MiB.
    pub uploaded_bytes_max: usize,
    /// Bytes of all recorded bodies that are being sent again, small ones aside; 503 above. Default: 256 MiB.
    pub replayed_bytes_max: usize,
    /// Requests that are claimed and not yet settled; 503 above. Default: 4096.
    pub unsettled_max: usize,
    /// Duplicates that wait for their twin; 409 at once above. Default: 1024.
    pub waiting_max: usize,
    /// How long the end of a response is held back for its settlement. Default: 2 s.
    pub settle_hold: Duration,
    /// How long a claim is tried, within half of the deadline, before the store counts as unavailable.
    /// Default: 5 s.
    pub claim_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            captured_bytes_max: 64 << 20,
            uploaded_bytes_max: 256 << 20,
            replayed_bytes_max: 256 << 20,
            unsettled_max: 4096,
            waiting_max: 1024,
            settle_hold: Duration::from_secs(2),
            claim_patience: Duration::from_secs(5),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Resources {
    pub(crate) store: SharedStore,
    pub(crate) in_flight: InFlight,
    pub(crate) captured: Budget,
    pub(crate) uploaded: Budget,
    pub(crate) replayed: Budget,
    pub(crate) unsettled: Arc<Semaphore>,
    pub(crate) waiting: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) abort: Abort,
    pub(crate) limits: Limits,
}

/// What the requests of one service share. A server makes a service for each connection or each core: what its
/// requests count up and down then stays with them, rather than with all the cores.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) policy: Arc<Policy>,
    pub(crate) resources: Arc<Resources>,
}

impl Resources {
    pub(crate) fn new(store: SharedStore, limits: Limits) -> Self {
        Self {
            store,
            in_flight: InFlight::default(),
            captured: Budget::new(limits.captured_bytes_max),
            uploaded: Budget::new(limits.uploaded_bytes_max),
            replayed: Budget::new(limits.replayed_bytes_max),
            unsettled: Arc::new(Semaphore::new(limits.unsettled_max)),
            waiting: Arc::new(Semaphore::new(limits.waiting_max)),
            tasks: TaskTracker::new(),
            abort: Abort::default(),
            limits,
        }
    }

    /// Waits for every task; past `limit` tells them to settle as unknown. True if none had to be told.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_ok() {
            return true;
        }
        self.abort.say();
        if tokio::time::timeout(ABORT_GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                tasks = self.tasks.len(),
                "requests are left unsettled: their keys become unknown when their leases lapse"
            );
        }
        false
    }
}
