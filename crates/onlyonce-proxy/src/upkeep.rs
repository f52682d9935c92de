//! Deletes expired records, now and then, in small bounded batches.

use std::convert::Infallible;
use std::time::Duration;

use onlyonce::store::Sweep;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::telemetry::causes;

/// How long after the start the first turn comes, at the most.
const FIRST: Duration = Duration::from_secs(2);

/// Sweeps until the future is dropped. A store that fails is tried again at the next turn.
pub(crate) async fn sweep(store: &impl Sweep, interval: Duration, batch: u32) -> Infallible {
    let mut failing = false;
    // Soon for the first time: what was left over while no process ran, and days of the response table
    // that nobody made in the meantime.
    let mut pause = interval.min(FIRST);
    loop {
        tokio::time::sleep(jittered(pause)).await;
        pause = interval;
        match turn(store, batch).await {
            Ok(records) => {
                debug!(records, "swept expired records");
                failing = false;
            }
            // Once, not at every turn: readiness tells the rest.
            Err(error) if !failing => {
                warn!(error = %causes(&error), "could not sweep expired records");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

/// Batches until one is not full, each followed by a pause as long as it took: requests have the store to
/// themselves for half of the time, however much has expired. What is left is several times as fast as records are
/// inserted.
async fn turn(store: &impl Sweep, batch: u32) -> Result<u64, onlyonce::store::StoreError> {
    let mut swept = 0;
    loop {
        let began = Instant::now();
        let records = store.sweep(batch).await?;
        swept += records;
        if records < u64::from(batch) {
            return Ok(swept);
        }
        tokio::time::sleep(began.elapsed()).await;
    }
}

/// Three to five quarters of the interval: processes that started together do not sweep together.
fn jittered(interval: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness there is no jitter, which is harmless.
    let _ = getrandom::fill(&mut byte);
    interval * 3 / 4 + interval * u32::from(byte[0]) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_varies_by_a_quarter() {
        let interval = Duration::from_secs(100);
        for _ in 0..100 {
            let jittered = jittered(interval).as_secs();
            assert!((75..=125).contains(&jittered), "{jittered}");
        }
    }
}
