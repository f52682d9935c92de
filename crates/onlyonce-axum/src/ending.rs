//! The end of a transaction that goes well: response, events, `COMMIT`, and what to make of a commit without answer.

use std::time::Duration;

use bytes::Bytes;
use onlyonce::Deadline;
use onlyonce_outbox::Appended;
use onlyonce_sqlx::postgres::transaction::named::is_forgotten;
use sqlx::raw_sql;
use tokio::time::{Instant, sleep, timeout_at};

use crate::answer::Failed;
use crate::conflict::is_conflict;
use crate::connection::{Committed, Open};
use crate::settings::Settings;
use crate::work::{Record, Work};

/// Between two looks at what became of a commit.
const PAUSE: Duration = Duration::from_millis(50);

/// Above this, a response is sent apart from the commit, as bytes instead of the digits that stand for them.
const TOGETHER_BYTES_MAX: usize = 4 << 10;

/// Until when the parts of a request have to be over. Each leaves time for the next one, and all of them for the core,
/// which would otherwise end them in the middle and know less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// The handler, and its response's body.
    pub(crate) work: Instant,
    /// The commit, the answer included.
    pub(crate) commit: Instant,
    /// Finding out about a commit that was not answered.
    pub(crate) inquiry: Instant,
}

impl Schedule {
    pub(crate) fn of(deadline: &Deadline) -> Self {
        let end = deadline.end();
        let limit = (end - deadline.start_by()) * 2;
        Self {
            work: end - (limit / 5).min(Duration::from_secs(6)),
            commit: end - (limit / 10).min(Duration::from_secs(3)),
            inquiry: end - (limit / 50).min(Duration::from_millis(250)),
        }
    }

    /// For a request without a key, which has no deadline of ours.
    pub(crate) fn unlimited() -> Self {
        let late = Instant::now() + Duration::from_secs(60);
        Self {
            work: late,
            commit: late,
            inquiry: late,
        }
    }
}

/// Commits what the request did, with its events and, where it has a record, its response.
pub(crate) async fn commit(
    settings: &Settings,
    mut work: Box<Work>,
    response: &Bytes,
    schedule: Schedule,
) -> Result<(), Failed> {
    if goes_together(settings, &work, response)
        && let Some(record) = work.record.take()
    {
        let Record { taken, .. } = &record;
        let committed = work
            .open
            .complete_and_chain(taken, response, schedule.commit);
        return conclude(settings, committed.await, Some(&record), schedule).await;
    }
    let prepared = Box::pin(prepare(settings, &mut work, response));
    let appended = match timeout_at(schedule.commit, prepared).await {
        Ok(Ok(appended)) => appended,
        Ok(Err(failed)) => {
            work.open.roll_back().await;
            return Err(failed);
        }
        Err(_elapsed) => {
            tracing::warn!(
                "the database is too slow to commit in time; the request is rolled back"
            );
            return Err(Failed::Database);
        }
    };
    let Work { open, record, .. } = *work;
    let committed = if settings.line.awaits(&open) {
        open.commit_and_chain(schedule.commit).await
    } else {
        open.commit(schedule.commit).await
    };
    conclude(settings, committed, record.as_ref(), schedule).await?;
    if let Some(wake) = settings.wake.as_ref().filter(|_| !appended.is_empty()) {
        wake.wake();
    }
    Ok(())
}

/// Whether the response goes into the message that commits. Only where somebody waits for the connection: the driver
/// knows of no other commit than its own, and the next transaction has to be begun at once. Events come after the
/// response, which proves that there is a transaction, and before the commit.
fn goes_together(settings: &Settings, work: &Work, response: &Bytes) -> bool {
    work.events.events().is_empty()
        && response.len() <= TOGETHER_BYTES_MAX
        && work.open.is_prepared()
        && settings.may_prepare()
        && !work.open.is_nested()
        && settings.line.awaits(&work.open)
}

/// What a commit's answer means. A connection that came through it goes to whoever waits for it.
async fn conclude(
    settings: &Settings,
    committed: Committed,
    record: Option<&Record>,
    schedule: Schedule,
) -> Result<(), Failed> {
    match committed {
        Committed::Yes => Ok(()),
        Committed::Chained(open) => {
            settings.line.pass_on(open);
            Ok(())
        }
        Committed::Ended => Err(ended_itself(record)),
        Committed::No(error) => Err(failed(settings, "the database refused to commit", &error)),
        Committed::Unknown => {
            let record = record.ok_or(Failed::Unconfirmed)?;
            if Box::pin(inquire(settings, record, schedule.inquiry)).await? {
                Ok(())
            } else {
                Err(Failed::Database)
            }
        }
    }
}

fn ended_itself(record: Option<&Record>) -> Failed {
    tracing::error!(
        record = record.map(|record| tracing::field::display(record.taken.id())),
        "the handler ended the request's transaction itself: what it wrote may be committed without its response"
    );
    Failed::Ended
}

/// Everything that comes before the commit.
async fn prepare(
    settings: &Settings,
    work: &mut Work,
    response: &Bytes,
) -> Result<Appended, Failed> {
    if work.open.is_nested() {
        tracing::error!(
            "a transaction within the request's own was neither committed nor rolled back"
        );
        return Err(Failed::Misused);
    }
    let connection = work.open.connection();
    let origin = work.record.as_ref().map(Record::origin);
    match &work.record {
        Some(record) => match record.taken.complete(connection, response).await {
            Ok(true) => {}
            Ok(false) => return Err(ended_itself(Some(record))),
            Err(error) => return Err(failed(settings, "the response cannot be written", &error)),
        },
        // Postgres answers the commit of a failed transaction with success; and where the handler has ended it, with
        // a warning. A savepoint is refused in both cases.
        None => {
            let probe = raw_sql("savepoint onlyonce_probe");
            if let Err(error) = probe.execute(&mut *connection).await {
                if is_without_transaction(&error) {
                    tracing::error!("the handler ended the request's transaction itself");
                    return Err(Failed::Ended);
                }
                return Err(failed(
                    settings,
                    "a statement of the handler failed",
                    &error,
                ));
            }
        }
    }
    let flushed = work.events.flush(connection, origin.as_ref()).await;
    flushed.map_err(|error| {
        let transient = error.is_transient();
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "the request's events cannot be written; it is rolled back"
        );
        match error.downcast_ref::<onlyonce_outbox::Error>() {
            _ if transient => Failed::Conflict,
            Some(
                onlyonce_outbox::Error::Invalid { .. } | onlyonce_outbox::Error::TooManyKeys { .. },
            ) => Failed::Misused,
            _ => Failed::Database,
        }
    })
}

/// `no_active_sql_transaction`
pub(crate) fn is_without_transaction(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "25P01")
}

fn failed(settings: &Settings, what: &'static str, error: &sqlx::Error) -> Failed {
    if is_forgotten(error) {
        settings.forget();
    }
    let conflict = is_conflict(error);
    tracing::warn!(
        error = error as &dyn std::error::Error,
        conflict,
        "{what}; the request is rolled back"
    );
    if conflict {
        Failed::Conflict
    } else {
        Failed::Database
    }
}

/// Finds out what became of a commit whose answer was lost, as long as there is time.
async fn inquire(settings: &Settings, record: &Record, until: Instant) -> Result<bool, Failed> {
    let inquiry = async {
        loop {
            match ask(settings, record).await {
                Ok(committed) => return committed,
                Err(error) => {
                    tracing::debug!(%error, "it is not known yet what became of a commit")
                }
            }
            sleep(PAUSE).await;
        }
    };
    timeout_at(until, inquiry).await.map_err(|_elapsed| {
        tracing::warn!(record = %record.taken.id(), "it is not known what became of a commit");
        Failed::Unconfirmed
    })
}

async fn ask(settings: &Settings, record: &Record) -> Result<bool, sqlx::Error> {
    let mut open = Open::begin(&settings.pool, Default::default()).await?;
    let committed = record.taken.is_committed(open.connection()).await;
    open.roll_back().await;
    committed
}
