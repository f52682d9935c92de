//! Group commit: calls that wait at the same time share one statement and one commit.
//!
//! A commit waits for the disk; a hundred claims in one commit wait once. While a group is on its way the
//! next one gathers, and it is sent when the answer is here: no timer, so that a call which is alone goes
//! out at once, from its caller's own task, and under load groups grow by themselves, in a task that lasts as
//! long as somebody waits.
//!
//! It is a short cut and nothing else. What a group does for a call is one plain insertion or one plain
//! completion; a call for which that was not enough (the row was there, the row was another's, the group
//! failed) goes on by itself as if there had been no group, and finds out what became of it by its token. So
//! a bad row fails alone, and an ambiguous commit of a group is resolved like any other.
//!
//! A group that does not come back (a commit that waits for a standby which is gone) must not hold up those
//! that need no commit: after a moment what waits behind it goes on alone, and reads before it writes.
//!
//! Rows are written in the order of their ids, and a group waits only shortly for a row that somebody else's
//! transaction holds.

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::store::{StoreError, StoreErrorKind};
use sqlx::Row;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use tokio::time::timeout;

use super::failure::Failure;
use super::id::Uuid;
use super::pool::Pool;
use super::session::Session;

mod claims;
mod completions;
mod queue;
mod stall;
mod turn;
mod waiting;

pub(super) use self::claims::Insertion;
pub(super) use self::completions::Completion;
use self::queue::{Entered, Queue};
use self::stall::OnItsWay;
use self::turn::Turn;
use self::waiting::Waiting;

/// A write that can share a statement with others of its kind, each to another record.
pub(super) trait Grouped: Send + Sync + Sized + 'static {
    /// What it comes to, where the short cut was enough.
    type Done: Send + Copy + 'static;

    /// The record that it writes.
    fn id(&self) -> RecordId;

    /// About how much it adds to the statement.
    fn bytes(&self) -> usize;

    /// Writes what can be written, in one statement: an answer for each, in the same order.
    fn write(
        group: &[Self],
        session: &mut Session<'_>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Done>>, Failure>> + Send;
}

/// What a group did for a call.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It is done.
    Done(T),
    /// Not by this way. `doubt`: it may have been written all the same.
    GoOn { doubt: bool },
}

/// What a call hears of its group.
type Said<T> = Result<Outcome<T>, StoreError>;

/// The calls of one kind that wait, and who sends them.
pub(super) struct Lane<W: Grouped>(Arc<Shared<W>>);

struct Shared<W: Grouped> {
    pool: Arc<Pool>,
    call_timeout: Duration,
    queue: Mutex<Queue<W>>,
    on_its_way: OnItsWay,
}

impl<W: Grouped> Lane<W> {
    pub(super) fn new(pool: Arc<Pool>, call_timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            pool,
            call_timeout,
            queue: Mutex::default(),
            on_its_way: OnItsWay::default(),
        }))
    }

    /// Writes at once where nobody does, else waits for a group to take the write along; and for the answer.
    ///
    /// Takes as long as two calls may at most: its own behind the one in front, whether or not whoever sends that
    /// one gets to run. Where this is dropped before its group is sent, nothing is written.
    pub(super) async fn join(&self, write: W) -> Said<W::Done> {
        // What queues up behind a group that hangs stays in memory until that is over.
        if self.0.on_its_way.is_stalled() {
            return Ok(Outcome::GoOn { doubt: false });
        }
        let (waiting, answer) = Waiting::new(write);
        let entered = self.0.queue().enter(waiting);
        match entered {
            Entered::First(alone) => Turn::begin(&self.0).send(vec![alone]).await,
            Entered::Behind => {
                return match timeout(self.0.call_timeout * 2, answer).await {
                    Ok(answer) => answer.unwrap_or(Ok(Outcome::GoOn { doubt: true })),
                    // Who sends is not polled: its thread is held up, or its runtime is not driven.
                    Err(elapsed) => {
                        Err(StoreError::not_applied(StoreErrorKind::Timeout, elapsed).in_doubt())
                    }
                };
            }
            Entered::Full => {
                let said = "too many calls wait for the database";
                return Err(StoreError::not_applied(StoreErrorKind::Unavailable, said));
            }
        }
        // It is told by itself, above.
        answer.await.unwrap_or(Ok(Outcome::GoOn { doubt: true }))
    }
}

impl<W: Grouped> Shared<W> {
    fn queue(&self) -> MutexGuard<'_, Queue<W>> {
        // What changes a queue does not panic between its steps.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a group's statement: as [`durable`](super::row::durable), and a short wait for locks.
macro_rules! durable_group {
    ($($statement:literal),+ $(,)?) => {
        super::super::row::durable!(
            and ", set_config('lock_timeout', '200ms', true) as patience";
            $($statement),+
        )
    };
}
use durable_group;

/// Runs a group's statement, which gives one row: the ids that it wrote. They are given in order.
async fn written_ids(
    session: &mut Session<'_>,
    statement: Query<'_, Postgres, PgArguments>,
) -> Result<Vec<RecordId>, Failure> {
    let row = session.fetch(statement).await?;
    let ids: Option<Vec<Uuid>> = row.map_or(Ok(None), |row| row.try_get("ids"))?;
    let ids = ids.unwrap_or_default().into_iter();
    let mut ids: Vec<_> = ids.map(|Uuid(id)| RecordId::from_bytes(id)).collect();
    ids.sort_unstable();
    Ok(ids)
}
