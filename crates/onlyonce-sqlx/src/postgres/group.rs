//! Group commit: calls that wait at the same time share one statement and one commit.
//!
//! A commit waits for the disk; a hundred claims in one commit wait once. While a group is on its way the
//! next one gathers, and it is sent when the answer is here: no timer, so that a call which is alone goes
//! out at once, and under load groups grow by themselves.
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

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::store::{StoreError, StoreErrorKind};
use sqlx::Row;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::call::{self, Call};
use super::failure::Failure;
use super::id::Uuid;
use super::pool::Pool;
use super::session::Session;

mod claims;
mod completions;

pub(super) use self::claims::Insertion;
pub(super) use self::completions::Completion;

/// Calls that may wait for a group; more are refused.
const QUEUE_MAX: usize = 8_192;
/// Both bound how long the first of a group waits for its answer.
const GROUP_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 << 20;
/// A group that is on its way for longer than this is not waited for by those behind it. Long enough that
/// load alone does not break groups up.
const STALLED_AFTER: Duration = Duration::from_millis(250);
const STALL_LOOK_EVERY: Duration = Duration::from_millis(100);

/// A write that can share a statement with others of its kind, each to another record.
pub(super) trait Grouped: Send + Sync + Sized + 'static {
    /// What it comes to, where the short cut was enough.
    type Done: Send + Copy;

    /// The record that it writes.
    fn id(&self) -> RecordId;

    /// About how much it adds to the statement.
    fn bytes(&self) -> usize;

    /// Writes what can be written, in one statement: an answer for each, in the same order.
    fn write(
        group: &[Self],
        session: &mut Session,
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

/// The calls of one kind that wait, and the task that sends them.
pub(super) struct Lane<W: Grouped> {
    pool: Arc<Pool>,
    call_timeout: Duration,
    queue: OnceLock<mpsc::Sender<Waiting<W>>>,
    on_its_way: OnItsWay,
}

/// Since when a group's statement is on its way. Waiting for a connection does not count: calls that go on
/// alone wait for the same connections, and would keep the next group from getting one.
#[derive(Clone, Default)]
struct OnItsWay(Arc<Mutex<Option<Instant>>>);

/// A statement that is on its way until this is dropped.
struct Sent<'a>(&'a OnItsWay);

impl OnItsWay {
    fn sent(&self) -> Sent<'_> {
        *self.since() = Some(Instant::now());
        Sent(self)
    }

    fn is_stalled(&self) -> bool {
        self.since()
            .is_some_and(|since| since.elapsed() > STALLED_AFTER)
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        // One value is written at once.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        *self.0.since() = None;
    }
}

struct Waiting<W: Grouped> {
    write: W,
    decided: Arc<AtomicBool>,
    caller: Caller<W>,
}

type Caller<W> = oneshot::Sender<Result<Outcome<<W as Grouped>::Done>, StoreError>>;

impl<W: Grouped> Waiting<W> {
    /// Whether its caller still waits for a group.
    fn is_wanted(&self) -> bool {
        !self.caller.is_closed() && !self.decided.load(Ordering::Acquire)
    }

    /// As [`is_wanted`](Self::is_wanted). If so, its caller can no longer say that it was not sent.
    fn take(&self) -> bool {
        !self.caller.is_closed() && !self.decided.swap(true, Ordering::AcqRel)
    }
}

impl<W: Grouped> Lane<W> {
    pub(super) fn new(pool: Arc<Pool>, call_timeout: Duration) -> Self {
        Self {
            pool,
            call_timeout,
            queue: OnceLock::new(),
            on_its_way: OnItsWay::default(),
        }
    }

    /// Waits for a group to take the write along, and for its answer.
    ///
    /// Where this is dropped before its group is sent, nothing is written.
    pub(super) async fn join(&self, write: W) -> Result<Outcome<W::Done>, StoreError> {
        // What queues up behind a group that hangs stays in memory until that is over, whether or not its
        // caller has gone on alone.
        if self.on_its_way.is_stalled() {
            return Ok(Outcome::GoOn { doubt: false });
        }
        let (caller, answer) = oneshot::channel();
        let decided = Arc::new(AtomicBool::new(false));
        let waiting = Waiting {
            write,
            decided: Arc::clone(&decided),
            caller,
        };
        match self.queue().try_send(waiting) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                let said = "too many calls wait for the database";
                return Err(StoreError::not_applied(StoreErrorKind::Unavailable, said));
            }
            // The task went with the runtime that it ran on.
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(Outcome::GoOn { doubt: false }),
        }
        match timeout(self.call_timeout, self.answered(answer, &decided)).await {
            Ok(outcome) => outcome,
            Err(elapsed) => {
                let error = StoreError::not_applied(StoreErrorKind::Timeout, elapsed);
                let sent = decided.swap(true, Ordering::AcqRel);
                Err(if sent { error.in_doubt() } else { error })
            }
        }
    }

    /// Waits for the answer, unless what is in front does not get on.
    async fn answered(
        &self,
        mut answer: oneshot::Receiver<Result<Outcome<W::Done>, StoreError>>,
        decided: &AtomicBool,
    ) -> Result<Outcome<W::Done>, StoreError> {
        loop {
            match timeout(STALL_LOOK_EVERY, &mut answer).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_gone)) => return Ok(Outcome::GoOn { doubt: true }),
                Err(_) if self.on_its_way.is_stalled() && !decided.swap(true, Ordering::AcqRel) => {
                    return Ok(Outcome::GoOn { doubt: false });
                }
                Err(_) => {}
            }
        }
    }

    fn queue(&self) -> &mpsc::Sender<Waiting<W>> {
        self.queue.get_or_init(|| {
            let (queue, waiting) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(send_groups(
                Arc::clone(&self.pool),
                self.call_timeout,
                self.on_its_way.clone(),
                waiting,
            ));
            queue
        })
    }
}

/// Sends group after group, until the store is gone.
async fn send_groups<W: Grouped>(
    pool: Arc<Pool>,
    call_timeout: Duration,
    on_its_way: OnItsWay,
    mut waiting: mpsc::Receiver<Waiting<W>>,
) {
    let mut arrived = Vec::with_capacity(GROUP_MAX);
    while waiting.recv_many(&mut arrived, GROUP_MAX).await > 0 {
        while !arrived.is_empty() {
            let group = next_group(&mut arrived);
            if !group.is_empty() {
                send(&pool, call_timeout, &on_its_way, group).await;
            }
        }
    }
}

/// Takes the next group out of what has arrived: no record twice, not too many bytes, nobody who has left.
fn next_group<W: Grouped>(arrived: &mut Vec<Waiting<W>>) -> Vec<Waiting<W>> {
    let (mut group, mut later) = (Vec::new(), Vec::new());
    let (mut ids, mut bytes) = (HashSet::new(), 0);
    for waiting in arrived.drain(..) {
        let fits = group.is_empty() || bytes + waiting.write.bytes() <= GROUP_BYTES_MAX;
        if later.is_empty() && fits && ids.insert(waiting.write.id()) {
            if waiting.is_wanted() {
                bytes += waiting.write.bytes();
                group.push(waiting);
            }
        } else {
            later.push(waiting);
        }
    }
    *arrived = later;
    group
}

async fn send<W: Grouped>(
    pool: &Pool,
    call_timeout: Duration,
    on_its_way: &OnItsWay,
    group: Vec<Waiting<W>>,
) {
    let group = Group {
        gathered: Mutex::new(group),
        taken: OnceLock::new(),
        on_its_way,
    };
    let performed = call::perform(pool, call_timeout, &group).await;
    // Where there was no connection for it, nothing was taken.
    group.take();
    let callers = group.taken.into_inner().unwrap_or_default().callers;
    match performed {
        Ok(Answer { written, doubt }) => {
            for (caller, done) in callers.into_iter().zip(written) {
                let outcome = done.map_or(Outcome::GoOn { doubt }, Outcome::Done);
                let _ = caller.send(Ok(outcome));
            }
        }
        // The server is away or does not answer, for each of them alone as well.
        Err(error) if error.is_transient() => {
            for caller in callers {
                let _ = caller.send(Err(error.clone()));
            }
        }
        Err(error) => {
            tracing::debug!(%error, calls = callers.len(), "a group failed; each call goes on alone");
            let doubt = error.may_have_applied();
            for caller in callers {
                let _ = caller.send(Ok(Outcome::GoOn { doubt }));
            }
        }
    }
}

struct Group<'a, W: Grouped> {
    gathered: Mutex<Vec<Waiting<W>>>,
    /// Set by the first try, once it has a connection: until then a caller may leave and be sure.
    taken: OnceLock<Taken<W>>,
    on_its_way: &'a OnItsWay,
}

struct Taken<W: Grouped> {
    writes: Vec<W>,
    callers: Vec<Caller<W>>,
}

impl<W: Grouped> Default for Taken<W> {
    fn default() -> Self {
        Self {
            writes: Vec::new(),
            callers: Vec::new(),
        }
    }
}

impl<W: Grouped> Group<'_, W> {
    fn take(&self) -> &Taken<W> {
        self.taken.get_or_init(|| {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            let mut taken: Vec<_> = gathered.drain(..).filter(Waiting::take).collect();
            // The order in which rows are written, and locked.
            taken.sort_unstable_by_key(|waiting| waiting.write.id());
            let (writes, callers) = taken.into_iter().map(|w| (w.write, w.caller)).unzip();
            Taken { writes, callers }
        })
    }
}

struct Answer<T> {
    written: Vec<Option<T>>,
    /// Whether an earlier try may have written what this one found written.
    doubt: bool,
}

impl<W: Grouped> Call for Group<'_, W> {
    type Output = Answer<W::Done>;

    async fn run(&self, session: &mut Session) -> Result<Self::Output, Failure> {
        let doubt = self.taken.get().is_some();
        let Taken { writes, .. } = self.take();
        if writes.is_empty() {
            let written = Vec::new();
            return Ok(Answer { written, doubt });
        }
        let _sent = self.on_its_way.sent();
        match W::write(writes, session).await {
            Ok(written) => Ok(Answer { written, doubt }),
            // One row is held by somebody: the others need not wait for it once more.
            Err(mut failure) if failure.is_lock_timeout() => {
                failure.kind = StoreErrorKind::Other;
                failure.retry = false;
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
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

/// Runs a group's statement, which gives one row: the ids that it wrote.
async fn written_ids(
    session: &mut Session,
    statement: Query<'_, Postgres, PgArguments>,
) -> Result<HashSet<RecordId>, Failure> {
    let row = session.fetch(statement).await?;
    let ids: Option<Vec<Uuid>> = row.map_or(Ok(None), |row| row.try_get("ids"))?;
    let ids = ids.unwrap_or_default().into_iter();
    Ok(ids.map(|Uuid(id)| RecordId::from_bytes(id)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    struct Write(u8, usize);

    impl Grouped for Write {
        type Done = ();

        fn id(&self) -> RecordId {
            RecordId::from_bytes([self.0; 16])
        }

        fn bytes(&self) -> usize {
            self.1
        }

        async fn write(group: &[Self], _: &mut Session) -> Result<Vec<Option<()>>, Failure> {
            Ok(vec![Some(()); group.len()])
        }
    }

    fn groups(writes: &[(u8, usize)]) -> Vec<Vec<u8>> {
        let mut callers = Vec::new();
        let mut arrived: Vec<_> = writes
            .iter()
            .map(|(id, bytes)| {
                let (caller, answer) = oneshot::channel();
                callers.push(answer);
                Waiting {
                    write: Write(*id, *bytes),
                    decided: Arc::default(),
                    caller,
                }
            })
            .collect();
        let mut groups = Vec::new();
        while !arrived.is_empty() {
            let group = next_group(&mut arrived);
            groups.push(group.iter().map(|waiting| waiting.write.0).collect());
        }
        groups
    }

    #[test]
    fn a_group_holds_no_record_twice_and_keeps_the_order() {
        assert_eq!(
            groups(&[(1, 0), (2, 0), (1, 0), (3, 0), (1, 0)]),
            [vec![1, 2], vec![1, 3], vec![1]]
        );
    }

    #[test]
    fn a_group_is_bounded_in_bytes_but_takes_at_least_one() {
        let much = GROUP_BYTES_MAX;
        assert_eq!(
            groups(&[(1, much + 1), (2, much), (3, 1), (4, much - 1)]),
            [vec![1], vec![2], vec![3, 4]]
        );
    }

    #[tokio::test]
    async fn behind_a_group_that_hangs_nothing_queues_up() {
        let settings: Settings = "postgres://nobody.invalid/none".parse().unwrap();
        let lane = Lane::new(Arc::new(Pool::new(&settings)), settings.call_timeout);
        let sent = lane.on_its_way.sent();
        assert!(!lane.on_its_way.is_stalled());
        *lane.on_its_way.since() = Instant::now().checked_sub(STALLED_AFTER * 2);
        let outcome = lane.join(Write(1, 0)).await.unwrap();
        assert!(matches!(outcome, Outcome::GoOn { doubt: false }));
        assert!(lane.queue.get().is_none());
        drop(sent);
        assert!(!lane.on_its_way.is_stalled());
    }

    #[test]
    fn who_has_left_is_not_taken_along() {
        let (caller, answer) = oneshot::channel();
        drop(answer);
        let mut arrived = vec![Waiting {
            write: Write(1, 0),
            decided: Arc::default(),
            caller,
        }];
        assert!(next_group(&mut arrived).is_empty() && arrived.is_empty());
    }
}
