//! A connection of the application's pool, and the transaction that is open on it.
//!
//! The driver's own guard, `Transaction`, rolls back when it is dropped and gives the connection back to the pool. It
//! does not for a `begin` that was cancelled: then the next one who borrows the connection works in somebody else's
//! transaction (sqlx up to 0.9). Here a connection goes back only by [`Borrowed::give_back`], which is called where
//! its state is known. Whatever else happens to it, a panic, a client that leaves, a time-out, it is closed; the
//! server rolls back then.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgSeverity, PgTransactionManager};
use sqlx::{PgPool, Postgres, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::time::{Instant, timeout, timeout_at};

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
    /// The server said so.
    No(sqlx::Error),
    /// It was sent, and there is no answer.
    Unknown,
}

const HELD: &str = "it is taken only by what consumes this";

impl Borrowed {
    /// Waits for a connection, as long as the pool says.
    pub(crate) async fn from(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(pool.acquire().await?)))
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
#[derive(Debug)]
pub(crate) struct Open(Borrowed);

impl Open {
    pub(crate) async fn begin(pool: &PgPool, isolation: Isolation) -> Result<Self, sqlx::Error> {
        let mut borrowed = Borrowed::from(pool).await?;
        let statement = isolation.begin().into_sql_str();
        PgTransactionManager::begin(borrowed.connection(), Some(statement)).await?;
        Ok(Self(borrowed))
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.0.connection()
    }

    pub(crate) fn connection_ref(&self) -> &PgConnection {
        self.0.connection_ref()
    }

    /// Whether a transaction within this one was neither committed nor rolled back: somebody leaked it.
    pub(crate) fn is_nested(&self) -> bool {
        PgTransactionManager::get_transaction_depth(self.0.connection_ref()) != 1
    }

    /// Commits. Never cancelled: where there is no answer in time the connection is closed.
    pub(crate) async fn commit(mut self, until: Instant) -> Committed {
        let commit = PgTransactionManager::commit(self.0.connection());
        match timeout_at(until, commit).await {
            Ok(Ok(())) => {
                self.0.give_back();
                Committed::Yes
            }
            Ok(Err(error)) if is_refusal(&error) => {
                self.roll_back().await;
                Committed::No(error)
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the answer to a commit was lost"
                );
                Committed::Unknown
            }
            Err(_elapsed) => {
                tracing::warn!("a commit is not answered");
                Committed::Unknown
            }
        }
    }

    /// Rolls everything back and begins anew, on the connection for which others may wait.
    pub(crate) async fn begin_again(mut self, isolation: Isolation) -> Result<Self, sqlx::Error> {
        let connection = self.0.connection();
        while PgTransactionManager::get_transaction_depth(connection) > 0 {
            PgTransactionManager::rollback(connection).await?;
        }
        let statement = isolation.begin().into_sql_str();
        PgTransactionManager::begin(connection, Some(statement)).await?;
        Ok(self)
    }

    /// Rolls everything back, and gives the connection back where the server says that it has.
    pub(crate) async fn roll_back(mut self) {
        let connection = self.0.connection();
        let rolled_back = async {
            while PgTransactionManager::get_transaction_depth(connection) > 0 {
                PgTransactionManager::rollback(connection).await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        if let Ok(Ok(())) = timeout(ROLL_BACK_MAX, rolled_back).await {
            self.0.give_back();
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
