//! What the tables need now and then: expired records are deleted, and the days of the response table are made ahead
//! and dropped. The days of the outbox are made ahead too: events must find theirs, whether or not a relay runs. In the background, on a connection of the pool that is given back between two steps.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use onlyonce::store::{StoreError, StoreErrorKind};
use onlyonce_outbox::{Error, partition, schema};
use onlyonce_sqlx::postgres::transaction;
use sqlx::PgPool;
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, timeout};

use crate::connection::Borrowed;

/// Records that are deleted at a time.
const SWEEP_BATCH: u32 = 500;
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// A week is made ahead, so an hour is often enough.
const DAYS_EVERY: Duration = Duration::from_secs(3_600);
/// The longest that one step may take.
const STEP_MAX: Duration = Duration::from_secs(60);

/// What is due when.
#[derive(Debug)]
pub(crate) struct Upkeep {
    sweep: NowAndThen,
    days: NowAndThen,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            sweep: NowAndThen::every(SWEEP_EVERY),
            days: NowAndThen::every(DAYS_EVERY),
        }
    }
}

impl Upkeep {
    /// Begins what is due. Waits for nothing.
    pub(crate) fn look_after(&self, pool: &PgPool) {
        let (sweep, days) = (self.sweep.take(), self.days.take());
        if !sweep && !days {
            return;
        }
        let pool = pool.clone();
        tokio::spawn(async move {
            if days {
                told(step(&pool, Step::Days).await);
                told(step(&pool, Step::EventDays).await);
            }
            if sweep {
                told(sweep_all(&pool).await);
            }
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Days,
    EventDays,
    Sweep,
}

async fn sweep_all(pool: &PgPool) -> Result<(), StoreError> {
    let begun = Instant::now();
    while begun.elapsed() < SWEEP_EVERY {
        if step(pool, Step::Sweep).await? < u64::from(SWEEP_BATCH) {
            break;
        }
    }
    Ok(())
}

async fn step(pool: &PgPool, step: Step) -> Result<u64, StoreError> {
    let borrowed = Borrowed::from(pool).await;
    let mut borrowed =
        borrowed.map_err(|error| StoreError::not_applied(StoreErrorKind::Unavailable, error))?;
    let connection = borrowed.connection();
    let done = timeout(STEP_MAX, async {
        match step {
            Step::Days => transaction::upkeep(connection).await.map(|()| 0),
            Step::EventDays => event_days(connection).await.map(|()| 0),
            Step::Sweep => transaction::sweep(connection, SWEEP_BATCH).await,
        }
    });
    match done.await {
        Ok(Ok(count)) => {
            borrowed.give_back();
            Ok(count)
        }
        Ok(Err(error)) => Err(error),
        Err(elapsed) => Err(StoreError::new(StoreErrorKind::Timeout, elapsed)),
    }
}

/// Where there is no outbox there is nothing to do.
async fn event_days(connection: &mut PgConnection) -> Result<(), StoreError> {
    match schema::check(connection).await {
        Ok(()) => {}
        Err(Error::Schema(_)) => return Ok(()),
        Err(error) => return Err(StoreError::new(StoreErrorKind::Other, error)),
    }
    let prepared = partition::prepare(connection).await;
    prepared.map_err(|error| StoreError::new(StoreErrorKind::Other, error))
}

/// A failure keeps no request from anything.
fn told(done: Result<impl Sized, StoreError>) {
    if let Err(error) = done {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "the tables of records and events are not kept up");
    }
}

/// Something that is done now and then, by whoever comes first.
#[derive(Debug)]
pub(crate) struct NowAndThen {
    every: Duration,
    due: Mutex<Option<Instant>>,
}

impl NowAndThen {
    pub(crate) fn every(every: Duration) -> Self {
        Self {
            every,
            due: Mutex::default(),
        }
    }

    /// Whether it is due; it is not again for a while then.
    pub(crate) fn take(&self) -> bool {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let take = due.is_none_or(|due| due <= now);
        if take {
            *due = Some(now + self.every);
        }
        take
    }
}
