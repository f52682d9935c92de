//! A duplicate that waits for its twin, if the policy says so.
//!
//! It holds a place among a bounded number, and nothing else: no connection to the store, no claim, no
//! place in the upstream's queue. It reads; it never writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::record::RecordId;
use crate::resources::Resources;
use crate::store::{Present, Store};

/// First pause between two looks at a twin of another process; doubles up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_LAST: Duration = Duration::from_millis(500);

/// Waits until the record has an outcome. `None`: it was released, the wait is over, too many wait, or
/// the store does not answer; then the client may retry.
pub(super) async fn wait(resources: &Resources, id: &RecordId, limit: Duration) -> Option<Present> {
    let _place = Arc::clone(&resources.waiting).try_acquire_owned().ok()?;
    let until = Instant::now() + limit;
    let mut pause = PAUSE_FIRST;
    timeout_at(until, async {
        loop {
            if let Some(twin) = resources.in_flight.twin(id) {
                twin.gone().await;
            }
            match resources.store.find(id).await {
                Ok(Some(Present::InFlight { .. })) => {}
                Ok(outcome) => return outcome,
                Err(error) if error.is_transient() => {}
                Err(_) => return None,
            }
            // The twin is another process's: nothing tells us, so look again.
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    })
    .await
    .unwrap_or(None)
}
