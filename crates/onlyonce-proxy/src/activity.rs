//! How long something has been quiet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The moment of the last sign of life, shared by whoever shows it and whoever waits for it to stop.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    /// Alive now.
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    /// A sign of life.
    pub(crate) fn touch(&self) {
        let elapsed_ms = self.start.elapsed().as_millis();
        let elapsed_ms = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed_ms, Ordering::Relaxed);
    }

    /// The last sign of life.
    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// Returns once there was no sign of life for `limit`.
    pub(crate) async fn quiet_for(&self, limit: Duration) {
        loop {
            let due = self.last() + limit;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_touch_begins_anew() {
        let activity = Activity::new();
        let begin = Instant::now();
        tokio::join!(activity.quiet_for(Duration::from_secs(10)), async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            activity.touch();
        });
        assert_eq!(begin.elapsed(), Duration::from_secs(17));
    }
}
