//! Those who wait for a connection, and connections that go straight from one request to the next.
//!
//! Given back to the pool and taken out again, a connection is tested twice, by a round trip each, and its transaction
//! begins and ends with round trips of its own. Where more requests than connections are at work all the time, whoever
//! has committed hands the connection to the one that has waited longest, in a transaction that is begun already.
//!
//! Others use the same pool, and some of the requests wait there too, so that they are served where nobody hands
//! anything on: one at a time ([`Line::turn`]), as the head of the line. So a connection stays here within [`Limits`], and
//! then goes back to the pool, to whoever is the first there.
//!
//! Hazards:
//! - **Nobody loses a connection.** Who leaves with one already in hand passes it on, by its drop.
//! - **The session is the pool's.** What a handler sets for the session is there for the next request, as it is with a
//!   connection that comes out of the pool. The pool's own hooks (`after_release`, `before_acquire`) run when it comes
//!   back, not in between.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::connection::{Borrowed, Open};

/// For how long connections go from one request to the next before the pool gets them back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// So many requests have it one after the other.
    pub(crate) requests: u32,
    /// Since it was handed on for the first time. The request that has it then ends as it would.
    pub(crate) time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 64,
            time: Duration::from_millis(250),
        }
    }
}

/// The waiting line for a pool. Layers on one pool that were made from one another share it.
#[derive(Debug)]
pub(crate) struct Line {
    pool: PgPool,
    limits: Limits,
    /// The longest first. Those who have left are still in it, closed.
    waiting: Mutex<VecDeque<oneshot::Sender<Passed>>>,
    /// Who has it waits at the pool.
    turn: tokio::sync::Mutex<()>,
}

/// What somebody gets who has waited.
#[derive(Debug)]
pub(crate) enum Connection {
    /// From the pool.
    Borrowed(Borrowed),
    /// From a request that has committed: within a transaction that has done nothing.
    Passed(Open),
}

/// How long a connection has been going from one request to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenure {
    until: Instant,
    /// The one that has it now included.
    requests: u32,
}

impl Line {
    pub(crate) fn new(pool: PgPool, limits: Limits) -> Self {
        Self {
            pool,
            limits,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Waits for a connection, as long as the pool would.
    pub(crate) async fn connection(&self) -> Result<Connection, sqlx::Error> {
        if !self.is_exhausted() && self.is_empty() {
            return Ok(Connection::Borrowed(Borrowed::from(&self.pool).await?));
        }
        let limit = self.pool.options().get_acquire_timeout();
        let waited = timeout(limit, self.wait()).await;
        waited.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn wait(&self) -> Result<Connection, sqlx::Error> {
        let (sender, mut passed) = oneshot::channel();
        self.join(sender);
        let _turn = tokio::select! {
            biased;
            Ok(passed) = &mut passed => return Ok(Connection::Passed(passed.accept())),
            turn = self.turn.lock() => turn,
        };
        // Waiting at the pool can be in the middle of something, and is not given up for another connection.
        passed.close();
        if let Ok(passed) = passed.try_recv() {
            return Ok(Connection::Passed(passed.accept()));
        }
        Ok(Connection::Borrowed(Borrowed::from(&self.pool).await?))
    }

    /// Whether a connection would be handed on if its request were over now.
    pub(crate) fn awaits(&self, open: &Open) -> bool {
        self.prolonged(open).is_some() && !self.is_empty()
    }

    /// Hands a connection to the one that has waited longest; to the pool where nobody waits, or it has been away from
    /// there for long enough. Its transaction must have done nothing.
    pub(crate) fn pass_on(self: &Arc<Self>, mut open: Open) {
        let Some(tenure) = self.prolonged(&open) else {
            return open.let_go();
        };
        open.set_tenure(tenure);
        let mut passed = Passed {
            open: Some(open),
            line: Arc::clone(self),
        };
        while let Some(first) = self.leave() {
            match first.send(passed) {
                Ok(()) => return,
                Err(back) => passed = back,
            }
        }
        passed.accept().let_go();
    }

    /// The tenure with one more request; `None` where the pool has to have it back.
    fn prolonged(&self, open: &Open) -> Option<Tenure> {
        let now = Instant::now();
        let first = Tenure {
            until: now + self.limits.time,
            requests: 1,
        };
        let tenure = open.tenure().unwrap_or(first);
        let requests = tenure.requests + 1;
        let goes_on = requests <= self.limits.requests && now < tenure.until;
        (goes_on && !self.pool.is_closed()).then_some(Tenure { requests, ..tenure })
    }

    fn is_exhausted(&self) -> bool {
        self.pool.num_idle() == 0 && self.pool.size() >= self.pool.options().get_max_connections()
    }

    fn is_empty(&self) -> bool {
        let mut waiting = self.waiting();
        forget_closed(&mut waiting);
        waiting.is_empty()
    }

    fn join(&self, sender: oneshot::Sender<Passed>) {
        let mut waiting = self.waiting();
        forget_closed(&mut waiting);
        waiting.push_back(sender);
    }

    fn leave(&self) -> Option<oneshot::Sender<Passed>> {
        self.waiting().pop_front()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<Passed>>> {
        // Each change is a single step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has waited longest is the first to leave.
fn forget_closed(waiting: &mut VecDeque<oneshot::Sender<Passed>>) {
    while waiting.front().is_some_and(oneshot::Sender::is_closed) {
        waiting.pop_front();
    }
}

/// A connection on its way. Dropped there, since whom it was meant for has left, it goes to the next.
#[derive(Debug)]
struct Passed {
    /// `None` only once it has arrived.
    open: Option<Open>,
    line: Arc<Line>,
}

impl Passed {
    fn accept(mut self) -> Open {
        self.open
            .take()
            .expect("it is taken only here, and by the drop")
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.line.pass_on(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use onlyonce_test::event::within;
    use onlyonce_test::postgres::Database;
    use sqlx::postgres::PgPoolOptions;
    use sqlx::raw_sql;

    use super::*;
    use crate::settings::Isolation;

    async fn connection(line: &Line) -> Connection {
        within("a connection", line.connection()).await.unwrap()
    }

    /// A line for a pool of one, and its connection.
    async fn line(database: &Database) -> (Arc<Line>, Open) {
        let options = PgPoolOptions::new().max_connections(1);
        let pool = options.connect(&database.url()).await.unwrap();
        let limits = Limits {
            time: Duration::from_secs(60),
            ..Limits::default()
        };
        let line = Arc::new(Line::new(pool, limits));
        let Connection::Borrowed(borrowed) = connection(&line).await else {
            panic!("nobody has handed anything on");
        };
        let open = Open::begin_on(borrowed, Isolation::default()).await;
        (line, open.unwrap())
    }

    /// Whoever is handed a connection and is dropped before it looks.
    #[tokio::test]
    async fn whoever_leaves_with_a_connection_in_hand_passes_it_on() {
        let database = Database::fresh().await;
        let (line, open) = line(&database).await;
        let mut at_the_pool = Box::pin(line.connection());
        let mut leaves = Box::pin(line.connection());
        let mut stays = Box::pin(line.connection());
        for waiting in [&mut at_the_pool, &mut leaves, &mut stays] {
            assert!(poll!(waiting).is_pending());
        }
        line.pass_on(open);
        drop(leaves);
        let Connection::Passed(open) = within("it", stays).await.unwrap() else {
            panic!("it was not passed on");
        };
        assert_eq!(open.tenure().unwrap().requests, 3, "handed on twice");
        open.let_go();
        let Connection::Borrowed(borrowed) = within("it", at_the_pool).await.unwrap() else {
            panic!("it waited at the pool");
        };
        borrowed.give_back();
    }

    /// Nobody is left: the pool gets it, and nothing is open on it.
    #[tokio::test]
    async fn what_nobody_wants_any_more_goes_back_to_the_pool() {
        let database = Database::fresh().await;
        let (line, open) = line(&database).await;
        let mut at_the_pool = Box::pin(line.connection());
        let mut leaves = Box::pin(line.connection());
        for waiting in [&mut at_the_pool, &mut leaves] {
            assert!(poll!(waiting).is_pending());
        }
        line.pass_on(open);
        drop((leaves, at_the_pool));
        let Connection::Borrowed(mut borrowed) = connection(&line).await else {
            panic!("it was handed to nobody");
        };
        let savepoint = raw_sql("savepoint here").execute(borrowed.connection());
        let error = savepoint.await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("25P01"), "no transaction is open");
    }

    /// How often, and for how long.
    #[tokio::test]
    async fn a_connection_goes_back_when_its_time_is_over() {
        let database = Database::fresh().await;
        let (line, mut open) = line(&database).await;
        let mut waiting: Vec<_> = (0..70).map(|_| Box::pin(line.connection())).collect();
        for waiting in &mut waiting {
            assert!(poll!(waiting).is_pending());
        }
        let mut handed_on = 0;
        while line.awaits(&open) {
            line.pass_on(open);
            let next = within("it", waiting.remove(1)).await.unwrap();
            let Connection::Passed(passed) = next else {
                panic!("it was passed on");
            };
            open = passed;
            handed_on += 1;
        }
        assert_eq!(handed_on, 63, "64 requests have had it");
        open.set_tenure(Tenure {
            until: Instant::now(),
            requests: 1,
        });
        assert!(!line.awaits(&open), "its time is over");
        line.pass_on(open);
        let first = within("it", waiting.remove(0)).await.unwrap();
        assert!(matches!(first, Connection::Borrowed(_)), "the pool had it");
    }
}
