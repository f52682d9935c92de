//! Whether the relay can do its work now, and its numbers.
//!
//! Nobody is asked for the first: the relay looks at the database four times a second at least, and counts
//! its looks and its failures. Ready is one whose last look went well.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce_outbox::status::{Status, status};
use onlyonce_outbox::{Connector, Monitor};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::metrics;
use crate::admin::Supervised;
use crate::config::Relay;
use crate::readiness::NotReady;
use crate::telemetry::causes;

/// How often the counts are compared.
const EVERY: Duration = Duration::from_millis(100);

/// How long what was read of the database holds.
const FRESH: Duration = Duration::from_secs(5);

/// How long the database may take to say how the outbox is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The relay as a supervisor sees it.
#[derive(Debug)]
pub(super) struct Vitals {
    name: String,
    monitor: Monitor,
    connector: Connector,
    works: AtomicBool,
    draining: AtomicBool,
    status: Mutex<Option<(Instant, Option<Status>)>>,
}

impl Vitals {
    pub(super) fn new(settings: &Relay, monitor: Monitor) -> Self {
        Self {
            name: settings.name.to_string(),
            monitor,
            connector: settings.outbox.connector(),
            works: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            status: Mutex::default(),
        }
    }

    /// From now on the process is not ready any more.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether its last look at the database went well.
    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::SeqCst)
    }

    /// Compares the counts for as long as the process runs.
    pub(super) async fn watch(&self) -> Infallible {
        let mut before = self.monitor.stats();
        loop {
            sleep(EVERY).await;
            let now = self.monitor.stats();
            let failed = now.database_failures > before.database_failures;
            if failed && self.works.swap(false, Ordering::SeqCst) {
                warn!("not ready: the database does not do what it is asked");
            } else if !failed
                && now.polls > before.polls
                && !self.works.swap(true, Ordering::SeqCst)
            {
                info!("ready");
            }
            before = now;
        }
    }

    /// How the outbox is, read a moment ago; `None` where the database does not say.
    async fn status(&self) -> Option<Status> {
        let mut kept = self.status.lock().await;
        if let Some((at, status)) = &*kept
            && at.elapsed() < FRESH
        {
            return status.clone();
        }
        let read = async {
            let mut connection = self.connector.connect(PATIENCE, PATIENCE).await?;
            status(&mut connection).await
        };
        let read = match timeout(PATIENCE, read).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(error)) => {
                warn!(error = %causes(&error), "the outbox's state could not be read");
                None
            }
            Err(_) => {
                warn!("the outbox's state could not be read in time");
                None
            }
        };
        *kept = Some((Instant::now(), read.clone()));
        read
    }
}

impl Supervised for Vitals {
    async fn ready(&self) -> Result<(), NotReady> {
        if self.draining.load(Ordering::SeqCst) {
            Err(NotReady::Draining)
        } else if self.works() {
            Ok(())
        } else {
            Err(NotReady::Database)
        }
    }

    async fn metrics(&self) -> Option<String> {
        let status = self.status().await;
        Some(metrics::text(
            &self.name,
            &self.monitor.stats(),
            status.as_ref(),
        ))
    }
}
