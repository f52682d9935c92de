//! One connection, and how a statement is sent on it.
//!
//! The driver sends a statement in two halves, each ended by a `Sync`: first the text, then, once it has
//! been described, the values. Between them a pooler in transaction mode may change servers, and the second
//! would not know the first. Behind a pooler each statement is therefore sent inside a transaction of its
//! own; without one it commits by itself, and its text is prepared once for each connection.
//!
//! Every method waits for the server's `ReadyForQuery`, which comes after the commit: a row that was
//! returned is not yet a row that will last.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, raw_sql};

use super::failure::{Condition, Failure};
use super::settings::Settings;

/// A connection in use by one call.
#[derive(Debug)]
pub(super) struct Session<'c> {
    connection: Held<'c>,
    transactions: Transactions,
}

#[derive(Debug)]
enum Held<'c> {
    Own(PgConnection),
    Lent(&'c mut PgConnection),
}

/// Which transaction a statement runs in.
#[derive(Debug)]
enum Transactions {
    /// Its own, which it begins and ends by itself.
    Implicit,
    /// Its own, which this begins: behind a pooler.
    Begun(Arc<str>),
    /// One that is open, and not ours to end. Where a statement fails, it fails with it.
    Open,
}

/// What begins a transaction in which nothing depends on the defaults of session or server.
pub(super) fn begin_statement(settings: &Settings) -> String {
    let mut begin = "begin isolation level read committed".to_owned();
    for (name, value) in settings.session_options() {
        if !name.starts_with("default_") {
            begin.push_str(&format!("; set local {name} = {value}"));
        }
    }
    begin
}

impl Session<'static> {
    /// A connection of our own; behind a pooler, with what begins a transaction.
    pub(super) fn new(connection: PgConnection, begin: Option<Arc<str>>) -> Self {
        Self {
            connection: Held::Own(connection),
            transactions: begin.map_or(Transactions::Implicit, Transactions::Begun),
        }
    }
}

impl<'c> Session<'c> {
    /// Somebody else's connection, on which no transaction is open.
    pub(super) fn lent(connection: &'c mut PgConnection) -> Self {
        let begin = "begin isolation level read committed; set local lock_timeout = '5s'; \
             set local statement_timeout = '30s'";
        Self {
            connection: Held::Lent(connection),
            transactions: Transactions::Begun(begin.into()),
        }
    }

    /// Somebody else's connection, and the transaction that is open on it.
    pub(super) fn inside(connection: &'c mut PgConnection) -> Self {
        Self {
            connection: Held::Lent(connection),
            transactions: Transactions::Open,
        }
    }

    /// Whether a transaction is open that is not ours.
    pub(super) fn is_inside(&self) -> bool {
        matches!(self.transactions, Transactions::Open)
    }

    fn connection(&mut self) -> &mut PgConnection {
        match &mut self.connection {
            Held::Own(connection) => connection,
            Held::Lent(connection) => connection,
        }
    }

    /// Runs one statement by itself and gives its first row, once it is committed.
    pub(super) async fn fetch(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Option<PgRow>, Failure> {
        Ok(self.fetch_all(query).await?.into_iter().next())
    }

    /// Runs one statement by itself and gives its rows, once it is committed.
    pub(super) async fn fetch_all(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Failure> {
        match &self.transactions {
            Transactions::Implicit => Ok(query.fetch_all(self.connection()).await?),
            Transactions::Begun(begin) => {
                let begin = Arc::clone(begin);
                self.transact(&begin, query).await
            }
            Transactions::Open => Ok(query.persistent(false).fetch_all(self.connection()).await?),
        }
    }

    /// As [`fetch_all`](Self::fetch_all), for a statement that reads much and may take a minute.
    pub(super) async fn fetch_patiently(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Failure> {
        let begin = "begin isolation level read committed read only; \
             set local statement_timeout = '60s'; set local enable_seqscan = on; \
             set local plan_cache_mode = auto";
        self.transact(begin, query).await
    }

    async fn transact(
        &mut self,
        begin: &str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Failure> {
        let rows = match self.run(begin).await {
            Ok(_) => query
                .persistent(false)
                .fetch_all(self.connection())
                .await
                .map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match rows {
            Ok(rows) => {
                self.run("commit").await?;
                Ok(rows)
            }
            Err(failure) => Err(self.roll_back(failure.uncommitted()).await),
        }
    }

    /// Runs statements without values, as they are. A transaction that they begin is the caller's to end.
    pub(super) async fn run(&mut self, statements: &str) -> Result<Vec<PgRow>, Failure> {
        // All of them are constants of ours and names made from dates.
        let statements = AssertSqlSafe(statements.to_owned());
        Ok(raw_sql(statements).fetch_all(self.connection()).await?)
    }

    /// Ends a transaction in which something failed, so that the connection can be used again.
    pub(super) async fn roll_back(&mut self, mut failure: Failure) -> Failure {
        if failure.connection == Condition::Good && self.run("rollback").await.is_err() {
            failure.connection = Condition::Broken;
        }
        failure
    }

    /// Whether the server still answers.
    pub(super) async fn answers(&mut self) -> bool {
        sqlx::Connection::ping(self.connection()).await.is_ok()
    }
}
