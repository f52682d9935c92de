//! Finds the server that takes writes, and connects to it.
//!
//! A standby answers reads, but shows the past (P5), so every new connection is asked whether it is in
//! recovery. While the primary is known, connections to it are made side by side. While it is not, one call
//! looks for it and the others wait; and after a round in which no server would do nobody looks again
//! before a pause, which grows and is jittered. A server that comes back is not met by a storm, and a claim
//! that cannot be made is refused at once rather than after its time-out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce::store::StoreErrorKind;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Row, raw_sql};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::failure::{Failure, TOO_MANY_CONNECTIONS};
use super::settings::{Settings, address};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The servers of one cluster.
#[derive(Debug)]
pub(super) struct Primary {
    targets: Vec<PgConnectOptions>,
    connect_timeout: Duration,
    /// The index of the primary; [`NOT_KNOWN`] while it is not known.
    known: AtomicUsize,
    search: Mutex<Search>,
}

const NOT_KNOWN: usize = usize::MAX;

#[derive(Debug, Default)]
struct Search {
    /// The one that was the primary last: where the next search begins.
    last: usize,
    /// What the last round met, and until when it stands.
    failed: Option<(Arc<NoPrimary>, Instant)>,
    pause: Duration,
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        // What PgBouncer says to a start-up packet with options that it does not track. (Its code, 08P01,
        // it gives to whatever goes wrong.)
        match error.as_database_error() {
            Some(said) if said.message().starts_with("unsupported startup parameter") => {
                Self::Pooler(error)
            }
            Some(said) if said.code().is_some_and(|code| code == TOO_MANY_CONNECTIONS) => {
                Self::Crowded(error)
            }
            _ => Self::Connect(error),
        }
    }
}

/// No server of the cluster takes writes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no Postgres server takes writes: {}", .0.join("; "))]
pub(super) struct NoPrimary(Vec<String>);

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Connect(sqlx::Error),
    #[error("{0}")]
    Crowded(sqlx::Error),
    #[error("{0}; behind a pooler in transaction mode, the store's URL needs `pooler=transaction`")]
    Pooler(sqlx::Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("it is a standby")]
    Standby,
    #[error("it is read-only")]
    ReadOnly,
}

impl Primary {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            targets: settings.connect_options(),
            connect_timeout: settings.connect_timeout,
            known: AtomicUsize::new(NOT_KNOWN),
            search: Mutex::default(),
        }
    }

    /// A fresh connection to the primary.
    pub(super) async fn connect(&self) -> Result<PgConnection, Failure> {
        if let Some(connected) = self.connect_to_known().await {
            return connected;
        }
        let mut search = self.search.lock().await;
        // It may have been found while we waited.
        if let Some(connected) = self.connect_to_known().await {
            return connected;
        }
        if let Some((failure, until)) = &search.failed
            && Instant::now() < *until
        {
            return Err(unavailable(failure));
        }
        match self.look_around(search.last).await {
            Ok((index, connection)) => {
                if search.failed.is_some() || index != search.last {
                    let server = address(&self.targets[index]);
                    tracing::info!(%server, "postgres primary found");
                }
                *search = Search {
                    last: index,
                    ..Search::default()
                };
                self.known.store(index, Ordering::Release);
                Ok(connection)
            }
            Err(failure) => Err(search.give_up(failure)),
        }
    }

    /// `None` where the primary is not known, or not any more.
    async fn connect_to_known(&self) -> Option<Result<PgConnection, Failure>> {
        let known = self.known.load(Ordering::Acquire);
        let target = self.targets.get(known)?;
        match self.try_target(target).await {
            Ok(connection) => Some(Ok(connection)),
            // It is there, and no other would do.
            Err(Refused::Crowded(error)) => Some(Err(Failure::crowded(error))),
            Err(refused) => {
                tracing::debug!(server = %address(target), %refused, "postgres primary lost");
                // Unless somebody has found another one meanwhile.
                let _ = self.known.compare_exchange(
                    known,
                    NOT_KNOWN,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                None
            }
        }
    }

    /// Asks all servers, beginning with one of them.
    async fn look_around(&self, first: usize) -> Result<(usize, PgConnection), NoPrimary> {
        let mut refusals = Vec::new();
        for offset in 0..self.targets.len() {
            let index = (first + offset) % self.targets.len();
            let target = &self.targets[index];
            match self.try_target(target).await {
                Ok(connection) => return Ok((index, connection)),
                Err(refused) => refusals.push(format!("{}: {refused}", address(target))),
            }
        }
        Err(NoPrimary(refusals))
    }

    async fn try_target(&self, target: &PgConnectOptions) -> Result<PgConnection, Refused> {
        timeout(self.connect_timeout, connect_to_primary(target))
            .await
            .unwrap_or(Err(Refused::TimedOut(self.connect_timeout)))
    }
}

impl Search {
    /// Notes that nobody need look again for a while.
    fn give_up(&mut self, failure: NoPrimary) -> Failure {
        if self.failed.is_none() {
            // Once for each outage: the calls that fail say so themselves.
            tracing::warn!(error = %failure, "postgres is out of reach");
        }
        let failure = Arc::new(failure);
        let error = unavailable(&failure);
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.failed = Some((failure, Instant::now() + jittered(self.pause)));
        error
    }
}

async fn connect_to_primary(target: &PgConnectOptions) -> Result<PgConnection, Refused> {
    let mut connection = target.connect().await?;
    let row =
        raw_sql("select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")
            .fetch_one(&mut connection)
            .await?;
    if row.try_get(0)? {
        return Err(Refused::Standby);
    }
    if row.try_get(1)? {
        return Err(Refused::ReadOnly);
    }
    Ok(connection)
}

fn unavailable(failure: &Arc<NoPrimary>) -> Failure {
    Failure::other(StoreErrorKind::Unavailable, Arc::clone(failure))
}

/// Between half and all of `pause`.
pub(super) fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the whole pause is taken.
    if getrandom::fill(&mut random).is_err() {
        return pause;
    }
    pause / 2 + pause / 2 * u32::from(random[0]) / 255
}
