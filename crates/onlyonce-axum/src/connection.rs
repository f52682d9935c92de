//! A connection of the application's pool, and the transaction that is open on it.
//!
//! The driver's own guard, `Transaction`, rolls back when it is dropped and gives the connection back to the pool. It
//! does not for a `begin` that was cancelled: then the next one who borrows the connection works in somebody else's
//! transaction (sqlx up to 0.9). Here a connection goes back only by [`Borrowed::give_back`], which is called where
//! its state is known. Whatever else happens to it, a panic, a client that leaves, a time-out, it is closed; the
//! server rolls back then.

use std::time::Duration;

use onlyonce::store::{Claim, StoreError};
use onlyonce_sqlx::postgres::transaction::named::is_forgotten;
use onlyonce_sqlx::postgres::transaction::{self, Taken, Taking};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgSeverity, PgTransactionManager};
use sqlx::{PgPool, Postgres, SqlSafeStr, raw_sql};
use sqlx_core::transaction::TransactionManager;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use crate::line::Tenure;
use crate::settings::Isolation;

/// The longest that is waited for a rollback before the connection is closed instead.
const ROLL_BACK_MAX: Duration = Duration::from_secs(2);

/// A connection that is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Borrowed(Option<PoolConnection<Postgres>>);

/// What became of a commit.
#[derive(Debug)]
pub(crate) enum Committed {
    Yes,
    /// Here is the connection, with the next transaction begun.
    Chained(Open),
    /// The transaction was over before: the work has ended it. Nothing was written or committed since.
    Ended,
    /// The server said so.
    No(sqlx::Error),
    /// It was sent, and there is no answer.
    Unknown,
}

const HELD: &str = "it is taken only by what consumes this";

impl Borrowed {
    /// Waits for a connection, as long as the pool says.
    pub(crate) async fn from(pool: &PgPool) -> Result<Self, sqlx::Error> {
        // Boxed: it is large, since it may connect, and every future around it would have to be as large.
        Ok(Self(Some(Box::pin(pool.acquire()).await?)))
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect(HELD)
    }

    pub(crate) fn connection_ref(&self) -> &PgConnection {
        self.0.as_ref().expect(HELD)
    }

    /// Gives it back to the pool. Nothing may be open on it.
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

/// A transaction. Dropping it closes its connection.
///
/// The driver counts how deep it is in transactions, and a handler's `begin` goes by that: here it is one deep, and so
/// is the server, whatever was sent past the driver's own `begin` and `commit`.
#[derive(Debug)]
pub(crate) struct Open {
    borrowed: Borrowed,
    /// `None` for one that comes from the pool.
    tenure: Option<Tenure>,
    /// Whether the server is known to have our statements by their names.
    prepared: bool,
}

impl Open {
    pub(crate) async fn begin(pool: &PgPool, isolation: Isolation) -> Result<Self, sqlx::Error> {
        Self::begin_on(Borrowed::from(pool).await?, isolation).await
    }

    pub(crate) async fn begin_on(
        mut borrowed: Borrowed,
        isolation: Isolation,
    ) -> Result<Self, sqlx::Error> {
        let statement = isolation.begin().into_sql_str();
        PgTransactionManager::begin(borrowed.connection(), Some(statement)).await?;
        Ok(Self {
            borrowed,
            tenure: None,
            prepared: false,
        })
    }

    /// Takes a record in a new transaction, which takes the place of this one that has done nothing.
    pub(crate) async fn claim_anew(
        &mut self,
        isolation: Isolation,
        claim: &Claim,
    ) -> Result<Taking, StoreError> {
        let connection = self.borrowed.connection();
        if !self.prepared {
            transaction::named::prepare(connection).await?;
            self.prepared = true;
        }
        // A new one, since the time of a transaction is when it began.
        transaction::begin_and_claim(connection, isolation.anew(), claim).await
    }

    pub(crate) fn tenure(&self) -> Option<Tenure> {
        self.tenure
    }

    pub(crate) fn set_tenure(&mut self, tenure: Tenure) {
        self.tenure = Some(tenure);
    }

    /// Whether the server is known to have our statements by their names.
    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.borrowed.connection()
    }

    pub(crate) fn connection_ref(&self) -> &PgConnection {
        self.borrowed.connection_ref()
    }

    /// Whether a transaction within this one was neither committed nor rolled back: somebody leaked it.
    pub(crate) fn is_nested(&self) -> bool {
        PgTransactionManager::get_transaction_depth(self.borrowed.connection_ref()) != 1
    }

    /// Commits. Never cancelled: where there is no answer in time the connection is closed.
    pub(crate) async fn commit(mut self, until: Instant) -> Committed {
        let commit = PgTransactionManager::commit(self.borrowed.connection());
        match answered(timeout_at(until, commit).await) {
            Answered::Yes(()) => {
                self.borrowed.give_back();
                Committed::Yes
            }
            Answered::No(error) => self.refused(error).await,
            Answered::Never => Committed::Unknown,
        }
    }

    /// Commits, and keeps the connection for somebody who waits for it.
    pub(crate) async fn commit_and_chain(mut self, until: Instant) -> Committed {
        let commit = raw_sql("commit and chain").execute(self.borrowed.connection());
        match answered(timeout_at(until, commit).await) {
            Answered::Yes(_) => Committed::Chained(self),
            Answered::No(error) => self.refused(error).await,
            Answered::Never => Committed::Unknown,
        }
    }

    /// As [`commit_and_chain`](Self::commit_and_chain), with the response in the same message.
    pub(crate) async fn complete_and_chain(
        mut self,
        taken: &Taken,
        response: &[u8],
        until: Instant,
    ) -> Committed {
        let commit = taken.complete_and_commit(self.borrowed.connection(), response);
        match answered(timeout_at(until, commit).await) {
            Answered::Yes(true) => Committed::Chained(self),
            Answered::Yes(false) => {
                self.roll_back().await;
                Committed::Ended
            }
            Answered::No(error) => self.refused(error).await,
            Answered::Never => Committed::Unknown,
        }
    }

    async fn refused(self, error: sqlx::Error) -> Committed {
        if is_forgotten(&error) {
            // The driver's statements are gone as well, which it does not know.
            drop(self);
        } else {
            self.roll_back().await;
        }
        Committed::No(error)
    }

    /// Gives a connection back whose transaction has done nothing: its end goes along with the test that every
    /// connection has to pass on its way into the pool.
    pub(crate) fn let_go(mut self) {
        PgTransactionManager::start_rollback(self.borrowed.connection());
        self.borrowed.give_back();
    }

    /// Rolls everything back and begins anew, on the connection for which others may wait.
    pub(crate) async fn begin_again(mut self, isolation: Isolation) -> Result<Self, sqlx::Error> {
        let connection = self.borrowed.connection();
        while PgTransactionManager::get_transaction_depth(connection) > 0 {
            PgTransactionManager::rollback(connection).await?;
        }
        let statement = isolation.begin().into_sql_str();
        PgTransactionManager::begin(connection, Some(statement)).await?;
        Ok(self)
    }

    /// Rolls everything back, and gives the connection back where the server says that it has.
    pub(crate) async fn roll_back(mut self) {
        let connection = self.borrowed.connection();
        let rolled_back = async {
            while PgTransactionManager::get_transaction_depth(connection) > 0 {
                PgTransactionManager::rollback(connection).await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        if let Ok(Ok(())) = timeout(ROLL_BACK_MAX, rolled_back).await {
            self.borrowed.give_back();
        }
    }
}

/// What the server says to a commit.
enum Answered<T> {
    Yes(T),
    No(sqlx::Error),
    Never,
}

fn answered<T>(answer: Result<Result<T, sqlx::Error>, Elapsed>) -> Answered<T> {
    match answer {
        Ok(Ok(done)) => Answered::Yes(done),
        Ok(Err(error)) if is_refusal(&error) => Answered::No(error),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the answer to a commit was lost");
            Answered::Never
        }
        Err(_elapsed) => {
            tracing::warn!("a commit is not answered");
            Answered::Never
        }
    }
}

/// Whether it is the server that says no. A session that is ended says so with FATAL, which can come between a commit
/// and its answer.
fn is_refusal(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}
